package node

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/rs/zerolog"

	"github.com/gregor-broker/gregor/config"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/storage"
	"github.com/gregor-broker/gregor/storage/vfs"
)

// clusterIdentity finds the cluster that the log directories belong to; where
// none is formatted yet it is the one asked for, or "". Storage checks every
// directory against it when it opens them.
//
// A directory that cannot be read is passed over as long as there is another:
// storage has it offline from the start. One that is read and makes no sense is
// an error.
func clusterIdentity(files vfs.FS, dirs []string, asked string, log zerolog.Logger) (string, error) {
	found := ""
	var unread []error
	for _, dir := range dirs {
		id, err := storage.ReadIdentity(files, dir)
		var corrupt *storage.CorruptError
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case errors.As(err, &corrupt):
			return "", err
		case err != nil:
			unread = append(unread, fmt.Errorf("log.dirs: %s: %w", dir, err))
			continue
		}
		if id.ClusterID == "" {
			continue // storage completes it
		}
		if found != "" && id.ClusterID != found {
			return "", fmt.Errorf("log.dirs: %s belongs to cluster %s, the directories before it to %s", dir, id.ClusterID, found)
		}
		found = id.ClusterID
	}
	if len(unread) == len(dirs) {
		return "", errors.Join(unread...)
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
	return "", nil
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
	if _, err := planQuorum(v, thisMachine(os.Hostname)); err != nil {
		return nil, err
	}
	var out []Formatted
	for _, dir := range v.LogDirs() {
		id, err := storage.ReadIdentity(files, dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		already := err == nil
		switch {
		case already && !ignoreFormatted:
			return nil, fmt.Errorf("log directory %s is already formatted; with --ignore-formatted it is left as it is and the others are formatted", dir)
		case already && id.ClusterID != clusterID:
			return nil, fmt.Errorf("log directory %s belongs to cluster %s", dir, id.ClusterID)
		case already && id.NodeID >= 0 && id.NodeID != v.NodeID():
			return nil, fmt.Errorf("log directory %s belongs to node %d", dir, id.NodeID)
		}
		out = append(out, Formatted{Dir: dir, Already: already})
	}
	for _, f := range out {
		if f.Already {
			continue
		}
		if err := storage.Format(files, f.Dir, storage.Identity{ClusterID: clusterID, NodeID: v.NodeID()}); err != nil {
			return nil, fmt.Errorf("formatting %s: %w", f.Dir, err)
		}
	}
	return out, nil
}
