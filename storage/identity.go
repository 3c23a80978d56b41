package storage

import (
	"fmt"
	"path"
	"strconv"

	"github.com/gregor-broker/gregor/storage/vfs"
)

// Identity is what the meta.properties of a log directory says: which node of which cluster it belongs to.
type Identity struct {
	ClusterID string // empty where the file names none
	NodeID    int32  // -1 where the file names none
}

// ReadIdentity reads the identity of a log directory without opening it. The error wraps fs.ErrNotExist if the directory
// is not formatted.
func ReadIdentity(files vfs.FS, dir string) (Identity, error) {
	name := path.Join(dir, metaPropertiesFile)
	data, err := readFile(files, name, smallFileLimit)
	if err != nil {
		return Identity{}, err
	}
	props := parseProperties(data)
	id := Identity{ClusterID: props["cluster.id"], NodeID: -1}
	node := props["node.id"]
	if node == "" {
		node = props["broker.id"]
	}
	if node != "" {
		n, err := strconv.ParseInt(node, 10, 32)
		if err != nil {
			return Identity{}, &CorruptError{File: name, Reason: fmt.Sprintf("node.id %q is not a number", node)}
		}
		id.NodeID = int32(n)
	}
	return id, nil
}

// Format makes a log directory and gives it an identity, durably. Open does the same for a directory that has none.
func Format(files vfs.FS, dir string, id Identity) error {
	if err := files.MkdirAll(dir); err != nil {
		return err
	}
	d := &logDir{fs: files, path: dir}
	return d.writeIdentity(path.Join(dir, metaPropertiesFile), id.ClusterID, id.NodeID)
}
