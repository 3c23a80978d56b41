package vfs

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"path"
	"syscall"
	"testing"
)

// TestContract runs the same steps on every implementation.
func TestContract(t *testing.T) {
	for name, fsys := range map[string]FS{"os": OS{}, "mem": NewMem(), "faulty": NewFaulty(NewMem(), nil)} {
		t.Run(name, func(t *testing.T) { testContract(t, fsys, t.TempDir()) })
	}
}

func testContract(t *testing.T, fsys FS, root string) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := path.Join(root, "a/b")
	must(fsys.MkdirAll(dir))
	must(fsys.MkdirAll(dir))
	if _, err := fsys.Open(path.Join(dir, "x")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("open of nothing: %v", err)
	}
	f, err := fsys.Create(path.Join(dir, "x"))
	must(err)
	_, err = f.WriteAt([]byte("hello"), 3)
	must(err)
	must(f.Sync())
	must(f.Truncate(6))
	got := make([]byte, 10)
	n, err := f.ReadAt(got, 0)
	if err != io.EOF || !bytes.Equal(got[:n], []byte("\x00\x00\x00hel")) {
		t.Fatalf("read %q, %v", got[:n], err)
	}
	must(fsys.Rename(path.Join(dir, "x"), path.Join(dir, "y")))
	if size, err := f.Size(); err != nil || size != 6 {
		t.Fatal(size, err)
	}
	must(fsys.SyncDir(dir))
	infos, err := fsys.List(dir)
	if err != nil || len(infos) != 1 || infos[0].Name != "y" || infos[0].Size != 6 || infos[0].Dir {
		t.Fatal(infos, err)
	}
	must(fsys.Remove(path.Join(dir, "y")))
	if n, err := f.ReadAt(got[:2], 3); n != 2 || err != nil {
		t.Fatalf("a removed file that is open must stay readable: %d, %v", n, err)
	}
	must(f.Close())
	if err := fsys.Remove(path.Join(dir, "y")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if err := fsys.Remove(path.Join(root, "a")); err == nil {
		t.Fatal("removed a directory that is not empty")
	}
	must(fsys.RemoveAll(path.Join(root, "a")))
	must(fsys.RemoveAll(path.Join(root, "a")))
	lock, err := fsys.Lock(path.Join(root, "lock"))
	must(err)
	if _, err := fsys.Lock(path.Join(root, "lock")); !errors.Is(err, ErrLocked) {
		t.Fatalf("second lock: %v", err)
	}
	must(lock.Close())
	lock, err = fsys.Lock(path.Join(root, "lock"))
	must(err)
	must(lock.Close())
	if total, usable, err := fsys.Usage(root); err != nil || total <= 0 || usable <= 0 {
		t.Fatal(total, usable, err)
	}
}

func TestCrashClone(t *testing.T) {
	m := NewMem()
	if err := m.MkdirAll("d"); err != nil {
		t.Fatal(err)
	}
	m.SyncDir("/")
	f, _ := m.Create("d/f")
	f.WriteAt(bytes.Repeat([]byte("A"), 4096), 0)
	f.Sync()
	m.SyncDir("d")
	f.WriteAt(bytes.Repeat([]byte("B"), 4096), 4096)
	m.Create("d/g")
	m.Rename("d/f", "d/h")

	var vanished, kept, torn, renamed int
	for seed := range uint64(300) {
		c := m.CrashClone(seed)
		name := "d/f"
		if _, err := c.Stat(name); err != nil {
			name = "d/h"
			renamed++
		}
		if _, err := c.Stat("d/g"); err != nil {
			vanished++
		}
		f, err := c.Open(name)
		if err != nil {
			t.Fatalf("seed %d: the synced file is gone: %v", seed, err)
		}
		size, _ := f.Size()
		data := make([]byte, size)
		f.ReadAt(data, 0)
		if !bytes.Equal(data[:4096], bytes.Repeat([]byte("A"), 4096)) {
			t.Fatalf("seed %d: synced bytes changed", seed)
		}
		switch b := bytes.Count(data, []byte("B")); {
		case b == 4096:
			kept++
		case b > 0:
			torn++
		}
	}
	if vanished == 0 || kept == 0 || torn == 0 || renamed == 0 || vanished == 300 || kept == 300 {
		t.Fatalf("vanished %d, kept %d, torn %d, renamed %d of 300", vanished, kept, torn, renamed)
	}
	k := m.KillClone()
	if in, err := k.Stat("d/h"); err != nil || in.Size != 8192 {
		t.Fatal(in, err)
	}
}

func TestFaulty(t *testing.T) {
	f := NewFaulty(NewMem(), FailNth(1, Fault{Err: syscall.ENOSPC, Short: 2}, OpWrite))
	file, err := f.Create("x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt([]byte("1234"), 0); err != nil {
		t.Fatal(err)
	}
	n, err := file.WriteAt([]byte("5678"), 4)
	if n != 2 || !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(n, err)
	}
	if size, _ := file.Size(); size != 6 {
		t.Fatal(size)
	}
	f.SetRule(FailNth(0, Fault{Short: 1}))
	if n, err := file.WriteAt([]byte("xyz"), 6); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	f.SetRule(FailNth(0, Fault{Err: syscall.EIO}))
	if err := file.Sync(); !errors.Is(err, syscall.EIO) || f.Ops() != 1 {
		t.Fatal(err, f.Ops())
	}
}
