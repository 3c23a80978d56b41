package storage

import (
	"slices"
	"strconv"
	"testing"

	"github.com/gregor-broker/gregor/storage/vfs"
)

func TestSucceed(t *testing.T) {
	files := vfs.NewMem()
	if err := files.MkdirAll("/d"); err != nil {
		t.Fatal(err)
	}
	var want []string
	for i := range 40 {
		got, err := Succeed(files, "/d", strconv.Itoa(i))
		if err != nil || !slices.Equal(got, want[max(0, len(want)-keptProcesses):]) {
			t.Fatalf("%d: %v, %v, want the last of %v", i, got, err, want)
		}
		want = append(want, strconv.Itoa(i))
	}
}
