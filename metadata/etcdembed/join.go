package etcdembed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gregor-broker/gregor/metadata/etcdstore"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	servererrors "go.etcd.io/etcd/server/v3/etcdserver/errors"
)

// ErrLostData says that the cluster knows this member as one that has worked,
// while its directory is empty: it acknowledged what it no longer has, and may
// only come back as a new member.
var ErrLostData = errors.New("the directory of this member of the metadata's quorum is empty, but the others know it as one that has worked")

// probeTimeout bounds a question to another member.
const probeTimeout = time.Second

// promotePause is the time between two attempts to make a learner a voter.
const promotePause = 100 * time.Millisecond

// Started says whether a member has worked in a directory.
func Started(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "member", "wal"))
	return err == nil
}

// remoteMember is a member as others describe it.
type remoteMember struct {
	Name       string   `json:"name"`
	PeerURLs   []string `json:"peerURLs"`
	ClientURLs []string `json:"clientURLs"`
}

// cluster asks members for all there are. It returns nil if none of them answers
// or none of them has worked yet.
func cluster(ctx context.Context, addresses []string) []remoteMember {
	answers := make(chan []remoteMember, len(addresses))
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	for _, a := range addresses {
		go func() { answers <- ask(ctx, a) }()
	}
	for range addresses {
		members := <-answers
		if slices.ContainsFunc(members, func(m remoteMember) bool { return len(m.ClientURLs) > 0 }) {
			return members
		}
	}
	return nil
}

// maxMembersAnswer bounds what a member may say about the others.
const maxMembersAnswer = 1 << 20

func ask(ctx context.Context, address string) []remoteMember {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/members", nil)
	if err != nil {
		return nil
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return nil
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil
	}
	var members []remoteMember
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxMembersAnswer)).Decode(&members); err != nil {
		return nil
	}
	return members
}

// prepare finds out how a member without data comes into its cluster: as one of
// the first members, or into a cluster that is there. In the second case it
// sets o.Join and o.Members.
func prepare(ctx context.Context, o *Options) error {
	self := o.Members[o.Name]
	if self == "" || Started(o.Dir) {
		return nil
	}
	var others []string
	for name, address := range o.Members {
		if name != o.Name {
			others = append(others, address)
		}
	}
	members := cluster(ctx, append(others, o.Contacts...))
	for members == nil && len(o.Contacts) > 0 {
		// It is not for this one to form a cluster.
		select {
		case <-time.After(probeTimeout):
		case <-ctx.Done():
			return ctx.Err()
		}
		members = cluster(ctx, o.Contacts)
	}
	if members == nil {
		return nil
	}
	own := slices.IndexFunc(members, func(m remoteMember) bool { return slices.Contains(m.PeerURLs, "http://"+self) })
	switch {
	case own >= 0 && len(members[own].ClientURLs) > 0:
		return fmt.Errorf("%w: remove it there (kafka-metadata-quorum.sh remove-controller) and start with controller.quorum.auto.join.enable=true", ErrLostData)
	case own < 0 && !o.AutoJoin:
		return fmt.Errorf("the cluster of the controllers is there and this one, %s, is not part of it: controller.quorum.auto.join.enable=true lets it join", self)
	case own < 0:
		if err := join(ctx, o, members, self); err != nil {
			return fmt.Errorf("join the controllers: %w", err)
		}
		members = append(members, remoteMember{PeerURLs: []string{"http://" + self}})
	}
	if err := awaitListed(ctx, members, self); err != nil {
		return fmt.Errorf("join the controllers: %w", err)
	}
	o.Join = true
	o.Members = map[string]string{}
	for _, m := range members {
		for _, u := range m.PeerURLs {
			address := u[len("http://"):]
			switch {
			case address == self:
				o.Members[o.Name] = self
			case m.Name == "" || m.Name == o.Name:
				o.Members[address] = address // until it says its name itself
			default:
				o.Members[m.Name] = address
			}
		}
	}
	return nil
}

// join makes a server a member of a cluster, once that is sound.
func join(ctx context.Context, o *Options, members []remoteMember, self string) error {
	refused := func(err error) { o.Log.Info().Err(err).Msg("the controllers take no other one yet") }
	return etcdstore.OnceSound(ctx, probeTimeout, refused, func() error { return addLearner(ctx, members, self) })
}

// listedPause is the time between two questions whether a member is known.
const listedPause = 50 * time.Millisecond

// awaitListed waits until every member that answers knows of the new one. A
// server that starts takes the first answer it gets for the truth, and that may
// come from a member that is behind.
func awaitListed(ctx context.Context, members []remoteMember, self string) error {
	url := "http://" + self
	for _, m := range members {
		if slices.Contains(m.PeerURLs, url) {
			continue
		}
		for !listed(ctx, m, url) {
			select {
			case <-time.After(listedPause):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}

// listed says whether a member knows of one with this URL, or does not answer.
func listed(ctx context.Context, m remoteMember, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	for _, peer := range m.PeerURLs {
		answer := ask(ctx, strings.TrimPrefix(peer, "http://"))
		if answer != nil {
			return slices.ContainsFunc(answer, func(o remoteMember) bool { return slices.Contains(o.PeerURLs, url) })
		}
	}
	return true
}

// addLearner makes a server a member that has no vote yet.
func addLearner(ctx context.Context, members []remoteMember, address string) error {
	var endpoints []string
	for _, m := range members {
		endpoints = append(endpoints, m.ClientURLs...)
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: probeTimeout})
	if err != nil {
		return err
	}
	_, err = client.MemberAddAsLearner(ctx, []string{"http://" + address})
	return errors.Join(err, client.Close())
}

// settle makes a new member a voter once it has caught up, and tells the others
// where this one is reached if that changed.
func (s *Store) settle(ctx context.Context, o *Options) error {
	server := s.server.Server
	self := server.Cluster().Member(server.MemberID())
	for o.Join && self != nil && self.IsLearner {
		_, err := server.PromoteMember(ctx, uint64(server.MemberID()))
		switch {
		case err == nil:
			o.Log.Info().Str("member", o.Name).Msg("joined the controllers")
			return nil
		case errors.Is(err, membership.ErrMemberNotLearner), errors.Is(err, rpctypes.ErrMemberNotLearner):
			return nil
		case !errors.Is(err, servererrors.ErrLearnerNotReady) && !errors.Is(err, rpctypes.ErrMemberLearnerNotReady):
			o.Log.Warn().Err(err).Msg("not a voter of the controllers yet")
		}
		select {
		case <-time.After(promotePause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	address := o.Members[o.Name]
	if address == "" || self == nil || slices.Contains(self.PeerURLs, "http://"+address) {
		return nil
	}
	o.Log.Info().Strs("was", self.PeerURLs).Str("is", address).Msg("the address of this member of the metadata's quorum changed")
	moved := membership.Member{ID: server.MemberID(), RaftAttributes: membership.RaftAttributes{
		PeerURLs: []string{"http://" + address}, IsLearner: self.IsLearner,
	}}
	_, err := server.UpdateMember(ctx, moved)
	return err
}
