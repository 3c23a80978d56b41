package harness

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

// standing is a driver that is started again, with what it said of its ends.
func standing(t *testing.T) (s *Standing, starts *int, told *[]string) {
	t.Helper()
	starts, told = new(int), new([]string)
	s, err := Stand(func() (*Driver, error) {
		*starts++
		return startDriver("echo", "sh", "-c", echo)
	}, func(err error, again bool) {
		end := err.Error()
		if !again {
			end += " for good"
		}
		*told = append(*told, end)
	})
	if err != nil {
		t.Fatal(err)
	}
	return s, starts, told
}

func TestDriverIsStartedAgain(t *testing.T) {
	s, starts, told := standing(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var before *Driver
	for end := 1; end <= Revivals+1; end++ {
		d, err := s.Driver()
		if err != nil || d == before || *starts != end {
			t.Fatalf("start %d: %p after %p, %d starts, %v", end, d, before, *starts, err)
		}
		if same, err := s.Driver(); err != nil || same != d {
			t.Errorf("it runs and is another one: %v", err)
		}
		if _, err := d.Do(ctx, "a", "poll"); err != nil {
			t.Error(err)
		}
		outstanding := make(chan error, 1)
		go func() {
			_, err := d.Do(ctx, "a", "begin")
			outstanding <- err
		}()
		if _, err := d.Do(ctx, "b", "drop"); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("drop: %v", err)
		}
		if err := <-outstanding; !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("a command without an answer: %v", err)
		}
		before = d
	}
	for range 2 {
		if d, err := s.Driver(); err == nil || d != nil {
			t.Errorf("it is started for ever: %v", err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if *starts != Revivals+1 || len(*told) != Revivals+1 {
		t.Fatalf("%d starts, told %q", *starts, *told)
	}
	for i, end := range *told {
		if !strings.Contains(end, "exit status 3") || !strings.Contains(end, "a chunk is broken") || strings.HasSuffix(end, "for good") != (i == Revivals) {
			t.Errorf("end %d: %q", i, end)
		}
	}
}

func TestClosedDriverTellsThatItHadEnded(t *testing.T) {
	for _, ends := range []bool{true, false} {
		s, starts, told := standing(t)
		d, err := s.Driver()
		if err != nil {
			t.Fatal(err)
		}
		if ends {
			if _, err := d.Do(t.Context(), "a", "drop"); err == nil {
				t.Error("it lives")
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if (len(*told) == 1) != ends || *starts != 1 {
			t.Errorf("ended %t: %d starts, told %q", ends, *starts, *told)
		}
	}
}
