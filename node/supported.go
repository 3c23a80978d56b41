package node

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/gregor-broker/gregor/config"
)

// checkSingleNode accepts the KRaft keys of a configuration that starts a
// single node in Kafka, and says what to change where they describe more: one
// process is broker and controller here.
func checkSingleNode(v *config.Values) error {
	for _, role := range []string{"broker", "controller"} {
		if !v.HasRole(role) {
			return at(v, "process.roles", fmt.Errorf("the role %s is missing: gregor runs as a single node, write broker,controller", role))
		}
	}
	id := int(v.NodeID())
	if voters := v.List("controller.quorum.voters"); len(voters) > 0 {
		if len(voters) > 1 {
			return at(v, "controller.quorum.voters", fmt.Errorf("%d voters are named, but gregor runs as a single node: name only node %d", len(voters), id))
		}
		voter, _, _ := strings.Cut(voters[0], "@")
		if n, err := strconv.Atoi(strings.TrimSpace(voter)); err != nil || n != id {
			return at(v, "controller.quorum.voters", fmt.Errorf("the voter is node %s, but this is node %d", voter, id))
		}
	}
	if n := len(v.List("controller.quorum.bootstrap.servers")); n > 1 {
		return at(v, "controller.quorum.bootstrap.servers", fmt.Errorf("%d controllers are named, but gregor runs as a single node", n))
	}
	return nil
}

// checkSecurity refuses settings that promise a protection which is not there:
// a broker that lets everybody in although its configuration names an
// authorizer would be worse than one that does not start.
func checkSecurity(v *config.Values) error {
	if class := v.String("authorizer.class.name"); class != "" {
		return at(v, "authorizer.class.name", fmt.Errorf("%s: gregor has no access control; without this key everybody who can connect may do everything", class))
	}
	return nil
}

// upper is the set of the names in upper case, which is how listeners are named.
func upper(names []string) map[string]bool {
	out := make(map[string]bool, len(names))
	for _, n := range names {
		out[strings.ToUpper(strings.TrimSpace(n))] = true
	}
	return out
}
