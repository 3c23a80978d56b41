package metadata

import (
	"bytes"
	"fmt"
	"strings"
)

// maxTopicName is the longest topic name, in bytes.
const maxTopicName = 249

// ClusterMetadataTopic is the name that KRaft keeps for itself. Clients know it
// as reserved, so nobody gets it here either.
const ClusterMetadataTopic = "__cluster_metadata"

// IsInternal says whether a topic belongs to the coordinators.
func IsInternal(name string) bool {
	switch name {
	case "__consumer_offsets", "__transaction_state", "__share_group_state":
		return true
	}
	return false
}

// NameProblem returns what Kafka says of a name no topic may have, or "".
func NameProblem(name string) string {
	problem := ""
	switch {
	case name == "":
		problem = "the empty string is not allowed"
	case name == "." || name == "..":
		problem = fmt.Sprintf("'%s' is not allowed", name)
	case len(name) > maxTopicName:
		problem = fmt.Sprintf("the length of '%s' is longer than the max allowed length %d", name, maxTopicName)
	case strings.ContainsFunc(name, func(c rune) bool { return !topicChar(c) }):
		problem = fmt.Sprintf("'%s' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'", name)
	default:
		return ""
	}
	return "Topic name is invalid: " + problem
}

func topicChar(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-'
}

// ValidTopicName says whether a topic may have that name.
func ValidTopicName(name string) bool { return NameProblem(name) == "" }

// collision returns a topic whose name differs from name only by '.' and '_',
// which metrics systems take for the same, or "". It looks at both characters
// at each such place, but goes on only where some topic begins that way.
func (i *Image) collision(name string) string {
	if !strings.ContainsAny(name, "._") {
		return ""
	}
	return i.collide([]byte(name), 0, name)
}

func (i *Image) collide(candidate []byte, from int, name string) string {
	at := bytes.IndexAny(candidate[from:], "._")
	if at < 0 {
		if other := string(candidate); other != name && i.Topic(other) != nil {
			return other
		}
		return ""
	}
	at += from
	for _, c := range []byte("._") {
		candidate[at] = c
		if i.anyTopicWithPrefix(string(candidate[:at+1])) {
			if other := i.collide(candidate, at+1, name); other != "" {
				return other
			}
		}
	}
	return ""
}

func (i *Image) anyTopicWithPrefix(prefix string) bool {
	found := false
	i.topics.from(prefix, func(name string, _ *Topic) bool {
		found = strings.HasPrefix(name, prefix)
		return false
	})
	return found
}
