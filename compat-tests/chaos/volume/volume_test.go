package volume

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestFullAndFailing(t *testing.T) {
	if err := Supported(); err != nil {
		t.Skip(err)
	}
	home := t.TempDir()
	dir := filepath.Join(home, "data")
	v, err := New(filepath.Join(home, "image"), dir, 32<<20)
	if err != nil {
		t.Skip(err) // a container without loop devices
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	name := filepath.Join(dir, "file")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := v.Fill(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(make([]byte, 64<<10)); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("a write to a full disk: %v", err)
	}
	if err := errors.Join(v.Free(), f.Truncate(0)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("kept "), 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("lost"), 5); err != nil {
		t.Fatal(err)
	}
	if err := v.Fail(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("refused"), 9); !errors.Is(err, syscall.EIO) {
		t.Fatalf("a write to a disk that failed: %v", err)
	}
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatalf("a sync of a disk that failed: %v", err)
	}
	f.Close()
	if err := v.Restore(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(name)
	if err != nil || !bytes.Equal(got, []byte("kept ")) {
		t.Fatalf("the file holds %q, %v", got, err)
	}
}
