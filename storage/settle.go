package storage

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/gregor-broker/gregor/storage/vfs"
)

// logHome is a log's directory as a start finds it.
type logHome struct {
	dir *logDir
	// movedTo and movedFrom are the ids in the marks of a Move, empty where there is none.
	movedTo, movedFrom string
}

// settleMoves judges what moves that a crash cut short have left, before any log is loaded: of each log one is left in
// entries, which are what was found in the directories. Directories of copies become leftovers. See Move.
func (m *Manager) settleMoves(entries map[*logDir][]vfs.Info) error {
	homes := map[TopicPartition][]logHome{}
	for _, d := range m.dirs {
		for _, e := range entries[d] {
			if tp, ok := parseFutureDir(e.Name); ok && e.Dir {
				m.leftovers[tp] = append(m.leftovers[tp], path.Join(d.path, e.Name))
				continue
			}
			tp, ok := parseLogDir(e.Name)
			if !ok || !e.Dir {
				continue
			}
			homes[tp] = append(homes[tp], logHome{dir: d, movedTo: m.readMark(d, tp, movedToFile)})
		}
	}
	for tp, found := range homes {
		h, err := m.oneHome(tp, found, entries)
		if err != nil {
			return err
		}
		if h.movedTo != "" || h.movedFrom != "" {
			m.judgeAlone(tp, h, entries)
		}
	}
	return nil
}

// oneHome sets aside all but one of the directories that hold a log, if it is moves that left them.
func (m *Manager) oneHome(tp TopicPartition, found []logHome, entries map[*logDir][]vfs.Info) (logHome, error) {
	usable := func(h logHome) bool { return h.dir.err() == nil }
	if found = slices.DeleteFunc(found, func(h logHome) bool { return !usable(h) }); len(found) == 0 {
		return logHome{}, nil
	}
	several := len(found) > 1
	for i := range found {
		if several || m.anyOffline() { // else it does not matter
			found[i].movedFrom = m.readMark(found[i].dir, tp, movedFromFile)
		}
	}
	for len(found) > 1 {
		a, b := found[0], found[1]
		loser := 0
		switch {
		case a.loses(b):
		case b.loses(a):
			loser = 1
		default:
			return a, &fatalError{fmt.Errorf("log %s is in %s and in %s", tp, a.dir.path, b.dir.path)}
		}
		m.opts.Log.Info().Stringer("log", tp).Str("from", found[loser].dir.path).Str("to", found[1-loser].dir.path).
			Msg("a log that was moved when the broker ended has one place again")
		m.setAside(tp, found[loser].dir, entries)
		if w := &found[1-loser]; w.movedFrom == found[loser].dir.id.String() {
			m.removeMark(tp, w.dir, movedFromFile)
			w.movedFrom = "" // it has done its work, even if that directory failed just now
		}
		found = slices.Delete(found, loser, loser+1)
	}
	return found[0], nil
}

// loses says whether the log at h is the one of two that does not count.
func (h logHome) loses(other logHome) bool {
	switch {
	case h.movedTo == other.dir.id.String():
		return true
	case other.movedTo == h.dir.id.String():
		return false
	case (h.movedTo != "") != (other.movedTo != ""):
		return h.movedTo != ""
	}
	return h.movedFrom == other.dir.id.String() // a move that could not be completed, and was not
}

// setAside renames a log's directory for removal. Where that fails the directory goes offline.
func (m *Manager) setAside(tp TopicPartition, d *logDir, entries map[*logDir][]vfs.Info) {
	m.deleteID++
	to := m.outName(&Log{tp: tp, dir: d}, deleteDirSuffix, m.deleteID)
	if err := renameDurably(d.fs, path.Join(d.path, tp.String()), to); err != nil {
		_ = d.fail(err) // the caller loads nothing from it then
	}
	m.background.remove(to, m.opts.Now().Add(time.Duration(m.opts.Defaults.FileDeleteDelayMs)*time.Millisecond))
	leaveOut(tp, d, entries)
}

func leaveOut(tp TopicPartition, d *logDir, entries map[*logDir][]vfs.Info) {
	entries[d] = slices.DeleteFunc(entries[d], func(e vfs.Info) bool { return e.Name == tp.String() })
}

// judgeAlone decides on the only log of its name that says that it was moved. If the directory that it names can be looked
// into, the move did not happen, or is over. If not, the log there may be the one that counts: then it is as good as lost
// with that directory, and this one left alone, under a name that no other gets.
func (m *Manager) judgeAlone(tp TopicPartition, h logHome, entries map[*logDir][]vfs.Info) {
	if !m.lookedInto(h.movedTo) || !m.lookedInto(h.movedFrom) {
		m.opts.Log.Error().Stringer("log", tp).Str("dir", h.dir.path).Str("directory_id", max(h.movedTo, h.movedFrom)).
			Msg("a log was being moved to or from a directory that cannot be used: it may be out of date and is not used")
		leaveOut(tp, h.dir, entries)
		m.changing[tp] = true
		return
	}
	if h.movedTo != "" {
		m.removeMark(tp, h.dir, movedToFile)
	}
	if h.movedFrom != "" {
		m.removeMark(tp, h.dir, movedFromFile)
	}
}

// lookedInto says whether all is known of a directory that a mark names. One that is none of ours does not matter.
func (m *Manager) lookedInto(id string) bool {
	there := func(d *logDir) bool { return d.err() == nil && d.id.String() == id }
	return id == "" || slices.ContainsFunc(m.dirs, there) || !m.anyOffline()
}

func (m *Manager) anyOffline() bool {
	return slices.ContainsFunc(m.dirs, func(d *logDir) bool { return d.err() != nil })
}

// removeMark removes a mark of a Move durably. If it cannot, the directory is offline: the caller loads nothing from it then.
func (m *Manager) removeMark(tp TopicPartition, d *logDir, file string) {
	if err := removeDurably(d.fs, path.Join(d.path, tp.String(), file)); err != nil {
		_ = d.fail(err) // told by openDirs
	}
}

// readMark reads a mark of a Move in a log's directory, "" if there is none. If it cannot be read, the directory is offline.
func (m *Manager) readMark(d *logDir, tp TopicPartition, file string) string {
	name := path.Join(d.path, tp.String(), file)
	data, err := readFile(d.fs, name, smallFileLimit)
	if errors.Is(err, errNotExist) || d.err() != nil {
		return ""
	}
	if err != nil {
		_ = d.fail(err) // nothing is loaded from it then
		return ""
	}
	var mark moveMark
	if err := json.Unmarshal(data, &mark); err != nil {
		m.opts.Log.Warn().Err(err).Str("file", name).Msg("a mark of a move cannot be read and is ignored")
		return ""
	}
	return mark.Directory
}

// parseFutureDir splits the name of a copy's directory.
func parseFutureDir(name string) (TopicPartition, bool) {
	base, ok := strings.CutSuffix(name, futureDirSuffix)
	if !ok {
		return TopicPartition{}, false
	}
	i := strings.LastIndexByte(base, '.')
	if i < 0 {
		return TopicPartition{}, false
	}
	return parseLogDir(base[:i])
}
