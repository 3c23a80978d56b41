package etcdembed

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
)

// trimDatabase cuts the part off the server's database that no page was ever
// written to. The database grows by 16 MiB at a time, and etcd maps all of the
// file into memory when it opens it: without this a broker that restarts holds
// 16 MiB more than a new one. Pages beyond the database's own size are not
// referenced by it, so a crash here loses nothing.
func trimDatabase(dir string) error {
	path := filepath.Join(dir, "member", "snap", "db")
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a new server
	} else if err != nil {
		return err
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: 10 * time.Millisecond})
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	var used int64
	err = db.View(func(tx *bbolt.Tx) error {
		used = tx.Size()
		return nil
	})
	if err == nil && used > 0 && used < info.Size() {
		// Under the database's lock: another server may be about to open it.
		err = os.Truncate(path, used)
	}
	if err = errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
