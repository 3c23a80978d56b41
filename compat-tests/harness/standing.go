package harness

import (
	"fmt"
	"slices"
	"strings"
	"sync"
)

// Revivals is how many times a driver whose program ended by itself is started
// again: libraries crash once in some hundred runs, not again and again.
const Revivals = 3

// lastLines of a program's standard error tell how it ended.
const lastLines = 5

// Standing is a driver whose program is started again where it ended by itself.
// The clients that it had are gone then; their commands fail.
type Standing struct {
	Name  string
	start func() (*Driver, error)
	ended func(err error, again bool)

	// mu is held while a program is started: whoever needs a client waits for
	// the same one. It is taken before the lock of the driver, never after it.
	mu   sync.Mutex
	d    *Driver
	ends int
	over error // why no program is started any more
}

// Stand starts a driver. Whenever its program ended by itself, ended is told of
// it, with what the program said last, and whether it is started again; it may
// not call the driver.
func Stand(start func() (*Driver, error), ended func(err error, again bool)) (*Standing, error) {
	d, err := start()
	if err != nil {
		return nil, err
	}
	return &Standing{Name: d.Name, start: start, ended: ended, d: d}, nil
}

// Driver is the program that runs, started again where it ended.
func (s *Standing) Driver() (*Driver, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over != nil {
		return nil, s.over
	}
	if s.d.End() == nil {
		return s.d, nil
	}
	if s.took(); s.ends > Revivals {
		s.over = s.d.End()
		return nil, s.over
	}
	d, err := s.start()
	if err != nil {
		s.over = fmt.Errorf("%s again: %w", s.Name, err)
		return nil, s.over
	}
	s.d = d
	return d, nil
}

// took takes note of the end of a program that nobody ended.
func (s *Standing) took() {
	s.ends++
	status := s.d.Close() // and all that it printed is there
	lines := strings.Split(strings.TrimSpace(s.d.stderr.String()), "\n")
	last := slices.DeleteFunc(lines[max(0, len(lines)-lastLines):], func(l string) bool { return l == "" })
	s.ended(fmt.Errorf("%s ended by itself (%v): %s", s.Name, status, strings.Join(last, " | ")), s.ends <= Revivals) //nolint:errorlint // nil is a status too
}

// Close ends the program.
func (s *Standing) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.over != nil:
		return nil
	case s.d.End() == nil:
		return s.d.Close()
	}
	s.took()
	return nil
}
