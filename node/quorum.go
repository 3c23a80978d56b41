package node

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// quorumSettings are Kafka's KRaft keys, as configured.
type quorumSettings struct {
	roles            []string
	nodeID, brokerID int // -1 where not set
	voters           []string
	bootstrapServers []string
	controllerNames  []string
	listenerNames    []string
}

// defaultNodeID is the id of a broker whose configuration names none.
const defaultNodeID = 1

// singleNode checks that the settings describe one node that is broker and
// controller in one, and returns its id. It accepts what starts such a node in
// Kafka, and says what to change where the settings describe more.
func singleNode(s quorumSettings) (int32, error) {
	id := defaultNodeID
	switch {
	case s.nodeID >= 0 && s.brokerID >= 0 && s.nodeID != s.brokerID:
		return 0, fmt.Errorf("node.id: %d differs from broker.id %d; they are two names of the same key", s.nodeID, s.brokerID)
	case s.nodeID >= 0:
		id = s.nodeID
	case s.brokerID >= 0:
		id = s.brokerID
	}
	for _, role := range s.roles {
		if role != "broker" && role != "controller" {
			return 0, fmt.Errorf("process.roles: %q is neither broker nor controller", role)
		}
	}
	if len(s.roles) > 0 && !slices.Contains(s.roles, "broker") {
		return 0, fmt.Errorf("process.roles: a node that is only a controller serves nobody here: gregor runs as a single node, write broker,controller")
	}
	if len(s.roles) > 0 && !slices.Contains(s.roles, "controller") {
		return 0, fmt.Errorf("process.roles: a broker without the role controller needs controllers elsewhere: gregor runs as a single node, write broker,controller")
	}
	if err := singleVoter(s.voters, id); err != nil {
		return 0, err
	}
	if n := len(s.bootstrapServers); n > 1 {
		return 0, fmt.Errorf("controller.quorum.bootstrap.servers: %d controllers are named, but gregor runs as a single node", n)
	}
	if slices.Contains(s.roles, "controller") && len(upper(s.controllerNames)) == 0 {
		return 0, fmt.Errorf("controller.listener.names: process.roles has the controller, so the listener it uses must be named")
	}
	for _, name := range upper(s.controllerNames) {
		if slices.Contains(s.roles, "controller") && !slices.Contains(s.listenerNames, name) {
			return 0, fmt.Errorf("controller.listener.names: listener %s is not in listeners", name)
		}
	}
	return int32(id), nil
}

// singleVoter checks controller.quorum.voters, entries of the form id@host:port.
func singleVoter(voters []string, id int) error {
	var ids []int
	for _, v := range voters {
		v = strings.TrimSpace(v)
		if v == "" {
			continue
		}
		idText, address, ok := strings.Cut(v, "@")
		voter, err := strconv.Atoi(idText)
		if !ok || err != nil || voter < 0 || !strings.Contains(address, ":") {
			return fmt.Errorf("controller.quorum.voters: %q is not of the form id@host:port", v)
		}
		ids = append(ids, voter)
	}
	if len(ids) > 1 {
		return fmt.Errorf("controller.quorum.voters: %d voters are named, but gregor runs as a single node: name only %d", len(ids), id)
	}
	if len(ids) == 1 && ids[0] != id {
		return fmt.Errorf("controller.quorum.voters: the voter is node %d, but this is node %d", ids[0], id)
	}
	return nil
}
