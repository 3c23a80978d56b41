package harness

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"
)

// echo answers commands as they say, in the order in which they can be.
const echo = `
while IFS="$(printf '\t')" read -r id client command rest; do
  case $command in
  poll) printf '%s\tcame\tm\t1\tt\t0\n%s\trecord\tt\t0\t7\t0\tv\n%s\t.\n' "$id" "$id" "$id" ;;
  send) printf '%s\tsent\t7\n%s\tfailed\t10\ttoo large\n%s\t.\n' "$id" "$id" "$id" ;;
  init) printf '%s\t!\t51\tconcurrent transactions\n' "$id" ;;
  begin) late=$id ;;
  commit) printf '%s\t.\n%s\tmember\tm\t1\n%s\t.\n' "$late" "$id" "$id" ;;
  drop) echo 'a chunk is broken' >&2; exit 3 ;;
  esac
done`

func TestDriver(t *testing.T) {
	d, err := startDriver("echo", "sh", "-c", echo)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	lines, err := d.Do(ctx, "a", "poll", "100")
	if err != nil || len(lines) != 2 || lines[0][0] != "came" || lines[1][5] != "v" {
		t.Errorf("poll: %q %v", lines, err)
	}
	lines, err = d.Do(ctx, "a", "send")
	offsets, errs := Refused(lines)
	if err != nil || len(offsets) != 2 || offsets[0] != 7 || errs[0] != nil || Code(errs[1]) != 10 {
		t.Errorf("send: %v %v %v", offsets, errs, err)
	}
	if _, err = d.Do(ctx, "a", "init"); Code(err) != 51 {
		t.Errorf("init: %v", err)
	}
	// A command that nobody waits for any more, whose answer comes with another's.
	short, end := context.WithCancel(ctx)
	end()
	if _, err = d.Do(short, "b", "begin"); !errors.Is(err, context.Canceled) {
		t.Errorf("begin: %v", err)
	}
	if lines, err = d.Do(ctx, "a", "commit"); err != nil || len(lines) != 1 || lines[0][1] != "m" {
		t.Errorf("commit: %q %v", lines, err)
	}
	for range 2 {
		if _, err = d.Do(ctx, "a", "drop"); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("a program that ended: %v", err)
		}
	}
	_ = d.Close() // it ended by itself, with a status
}
