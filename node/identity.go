package node

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/rs/zerolog"

	"github.com/gregor-broker/gregor/config"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/storage/vfs"
)

// metaProperties is the file in each log directory that says which node of
// which cluster it belongs to, as in Kafka.
const metaProperties = "meta.properties"

// identity is what a meta.properties says.
type identity struct {
	clusterID string
	nodeID    int32
}

// clusterIdentity finds the cluster that the log directories belong to; where
// there are none formatted yet it is the one asked for, or a new one. Storage
// checks every directory against it when it opens them.
func clusterIdentity(files vfs.FS, dirs []string, asked string, log zerolog.Logger) (string, error) {
	found := ""
	for _, dir := range dirs {
		id, err := readIdentity(files, dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return "", err
		}
		if found != "" && id.clusterID != found {
			return "", fmt.Errorf("log.dirs: %s belongs to cluster %s, the directories before it to %s", dir, id.clusterID, found)
		}
		found = id.clusterID
	}
	switch {
	case found != "":
		if asked != "" && asked != found {
			log.Warn().Str("cluster", found).Str("asked", asked).Msg("the log directories belong to another cluster than the one asked for; they win")
		}
		return found, nil
	case asked != "":
		return asked, checkClusterID(asked)
	}
	return NewClusterID(), nil
}

// NewClusterID is a random cluster id in Kafka's form.
func NewClusterID() string {
	return metadata.FormatID(metadata.NewID(func(b []byte) { _, _ = rand.Read(b) })) // crypto/rand never fails
}

func checkClusterID(id string) error {
	if _, err := metadata.ParseID(id); err != nil {
		return fmt.Errorf("cluster id %q is not 16 bytes in URL-safe base64 without padding; gregor random-uuid makes one", id)
	}
	return nil
}

// readIdentity reads a directory's meta.properties; fs.ErrNotExist tells that
// the directory is not formatted.
func readIdentity(files vfs.FS, dir string) (identity, error) {
	name := path.Join(dir, metaProperties)
	f, err := files.Open(name)
	if err != nil {
		return identity{}, err
	}
	defer f.Close()
	buf := make([]byte, 4096)
	n, err := f.ReadAt(buf, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return identity{}, err
	}
	var id identity
	for line := range strings.Lines(string(buf[:n])) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch value = strings.TrimSpace(value); strings.TrimSpace(key) {
		case "cluster.id":
			id.clusterID = value
		case "node.id", "broker.id":
			nodeID, err := strconv.ParseInt(value, 10, 32)
			if err != nil {
				return identity{}, fmt.Errorf("%s: node.id %q is not a number", name, value)
			}
			id.nodeID = int32(nodeID)
		}
	}
	if id.clusterID == "" {
		return identity{}, fmt.Errorf("%s names no cluster.id", name)
	}
	return id, nil
}

// Formatted is what Format did with one log directory.
type Formatted struct {
	Dir string
	// Already tells that the directory was formatted before and was left as
	// it is.
	Already bool
}

// Format writes meta.properties into every log directory of the configuration
// that has none. A directory that has one is an error unless ignoreFormatted,
// and in any case if it belongs to another cluster or node; nothing is written
// then.
func Format(files vfs.FS, v *config.Values, clusterID string, ignoreFormatted bool) ([]Formatted, error) {
	if err := checkClusterID(clusterID); err != nil {
		return nil, err
	}
	if err := checkSingleNode(v); err != nil {
		return nil, err
	}
	var out []Formatted
	for _, dir := range v.LogDirs() {
		id, err := readIdentity(files, dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		already := err == nil
		switch {
		case already && !ignoreFormatted:
			return nil, fmt.Errorf("log directory %s is already formatted; with --ignore-formatted it is left as it is and the others are formatted", dir)
		case already && id.clusterID != clusterID:
			return nil, fmt.Errorf("log directory %s belongs to cluster %s", dir, id.clusterID)
		case already && id.nodeID != v.NodeID():
			return nil, fmt.Errorf("log directory %s belongs to node %d", dir, id.nodeID)
		}
		out = append(out, Formatted{Dir: dir, Already: already})
	}
	for _, f := range out {
		if f.Already {
			continue
		}
		if err := writeIdentity(files, f.Dir, identity{clusterID, v.NodeID()}); err != nil {
			return nil, fmt.Errorf("formatting %s: %w", f.Dir, err)
		}
	}
	return out, nil
}

// writeIdentity makes the directory and its meta.properties durable.
func writeIdentity(files vfs.FS, dir string, id identity) error {
	if err := files.MkdirAll(dir); err != nil {
		return err
	}
	text := fmt.Sprintf("cluster.id=%s\ndirectory.id=%s\nnode.id=%d\nversion=1\n", id.clusterID, NewClusterID(), id.nodeID)
	name := path.Join(dir, metaProperties)
	f, err := files.Create(name + ".tmp")
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(text), 0)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := files.Rename(name+".tmp", name); err != nil {
		return err
	}
	return files.SyncDir(dir)
}
