package harness

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// MissingError says that this machine lacks something that a client needs.
// Tests skip aloud on it, and fail on it where CI=true is set.
type MissingError struct {
	What   string
	Reason string
	// Foreign tells that nothing here could have installed it, nowhere.
	Foreign bool
}

func (e *MissingError) Error() string { return "missing " + e.What + ": " + e.Reason }

// CacheDir is where clients, jars and Apache Kafka itself are installed once:
// $COMPAT_CACHE, else gregor-compat in the user's cache directory. It is never
// inside the source tree.
func CacheDir() (string, error) {
	dir := os.Getenv("COMPAT_CACHE")
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("no cache directory (set COMPAT_CACHE): %w", err)
		}
		dir = filepath.Join(base, "gregor-compat")
	}
	return dir, os.MkdirAll(dir, 0o755)
}

// Installed returns the directory name in the cache, made by fill if it is not
// there yet or was made from other inputs. A lock file keeps two test processes
// from filling it at once; a directory that fill left half done is never used,
// because it gets its name only at the end.
func Installed(name string, inputs []string, fill func(dir string) error) (string, error) {
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(cache, name+".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	sum := sha256.Sum256([]byte(strings.Join(inputs, "\x00")))
	want := hex.EncodeToString(sum[:])
	dir := filepath.Join(cache, name)
	stamp := filepath.Join(dir, ".inputs")
	if have, err := os.ReadFile(stamp); err == nil && string(have) == want {
		return dir, nil
	}
	// A Python environment knows its own path, so the directory is filled in
	// place, and counts as made only once the stamp is there.
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if err := fill(dir); err != nil {
		return "", err
	}
	return dir, os.WriteFile(stamp, []byte(want), 0o644)
}

// Need looks a program up in the PATH.
func Need(program, what string) (string, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return "", &MissingError{What: what, Reason: program + " is not in the PATH"}
	}
	return path, nil
}

// Run runs a command to its end; the error carries the end of what it printed.
func Run(dir, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		if len(out) > 2000 {
			out = out[len(out)-2000:]
		}
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// IsMissing tells whether err is about something the machine lacks.
func IsMissing(err error) bool {
	var m *MissingError
	return errors.As(err, &m)
}
