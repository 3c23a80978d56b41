package config

import "strings"

// removedKey says what to do with a key that is in no table: keys that Kafka
// dropped, and keys of other distributions that old files still carry.
type removedKey struct {
	// pattern is a name, or a prefix where it ends in ".*".
	pattern string
	// action is one of
	//   ignore    accept, with a warning that gives the note
	//   silent    accept
	//   copy      set the keys in to, unless they are set themselves
	//   listener  the parts of a listener before listeners existed
	action string
	to     []string
	note   string
}

func findRemoved(name string) *removedKey {
	for i := range removedKeys {
		r := &removedKeys[i]
		if prefix, ok := strings.CutSuffix(r.pattern, "*"); ok {
			if strings.HasPrefix(name, prefix) {
				return r
			}
		} else if name == r.pattern {
			return r
		}
	}
	return nil
}

// passedThrough tells the prefixes under which Kafka hands keys on to plugins
// unseen.
func passedThrough(name string) bool {
	for _, p := range []string{"rsm.config.", "rlmm.config.", "config.providers.", "metrics.context.", "metrics.jmx."} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}
