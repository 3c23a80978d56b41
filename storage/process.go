package storage

import (
	"errors"
	"io/fs"
	"path"
	"strings"

	"github.com/gregor-broker/gregor/storage/vfs"
)

const (
	processesFile = "gregor.processes"
	// keptProcesses bounds the list: of a process that came before so many others nobody remembers anything.
	keptProcesses = 16
)

// Succeed notes in a log directory, whose lock the caller holds, that this process works with it, and returns the ids of
// those that did before, the last ones of them, oldest first. They are dead. An id has no white space in it.
func Succeed(files vfs.FS, dir, id string) (former []string, err error) {
	name := path.Join(dir, processesFile)
	data, err := readFile(files, name, smallFileLimit)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	former = strings.Fields(string(data))
	if n := len(former) - keptProcesses; n > 0 {
		former = former[n:]
	}
	return former, writeFileAtomic(files, name, []byte(strings.Join(append(former[:len(former):len(former)], id), "\n")+"\n"))
}
