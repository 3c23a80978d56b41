package metadata

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"hash"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
)

// ScramMechanism is Kafka's number of a SCRAM mechanism (KIP-554).
type ScramMechanism int8

// The mechanisms.
const (
	ScramSHA256 ScramMechanism = 1
	ScramSHA512 ScramMechanism = 2
)

func (m ScramMechanism) String() string {
	switch m {
	case ScramSHA256:
		return "SCRAM-SHA-256"
	case ScramSHA512:
		return "SCRAM-SHA-512"
	}
	return ""
}

// What an iteration count may be; the lower bound is the RFC's.
const (
	minScramIterations = 4096
	maxScramIterations = 16384
)

// ScramID names one credential: a user has at most one of each mechanism.
type ScramID struct {
	User      string
	Mechanism ScramMechanism
}

// ScramCredential is what a server needs to authenticate a user (RFC 5802).
// Neither the password nor the salted password can be told from it.
type ScramCredential struct {
	Iterations                 int32
	Salt, StoredKey, ServerKey []byte
	revision                   int64
}

// ScramSet is all credentials of a cluster. It never changes.
type ScramSet struct{ byID map[ScramID]*ScramCredential }

// Scram returns the credentials that are stored, nil if none are.
func (i *Image) Scram() *ScramSet { return i.scram }

// Get returns a credential, nil if there is none.
func (s *ScramSet) Get(id ScramID) *ScramCredential {
	if s == nil {
		return nil
	}
	return s.byID[id]
}

// IDs lists the credentials by user and mechanism.
func (s *ScramSet) IDs() []ScramID {
	if s == nil {
		return nil
	}
	return slices.SortedFunc(maps.Keys(s.byID), func(a, b ScramID) int {
		return cmp.Or(cmp.Compare(a.User, b.User), cmp.Compare(a.Mechanism, b.Mechanism))
	})
}

// with returns the set with a credential, or without it if c is nil.
func (s *ScramSet) with(id ScramID, c *ScramCredential) *ScramSet {
	next := &ScramSet{byID: map[ScramID]*ScramCredential{}}
	if s != nil {
		maps.Copy(next.byID, s.byID)
	}
	if c == nil {
		delete(next.byID, id)
	} else {
		next.byID[id] = c
	}
	if len(next.byID) == 0 {
		return nil
	}
	return next
}

func scramKey(id ScramID) string {
	return prefixScram + id.Mechanism.String() + "/" + url.PathEscape(id.User)
}

func parseScramKey(rest string) (id ScramID, ok bool) {
	mechanism, escaped, ok := strings.Cut(rest, "/")
	user, err := url.PathUnescape(escaped)
	for _, m := range []ScramMechanism{ScramSHA256, ScramSHA512} {
		if m.String() == mechanism {
			return ScramID{user, m}, ok && err == nil
		}
	}
	return id, false
}

type scramRecord struct {
	V          int    `json:"v"`
	Iterations int32  `json:"iterations"`
	Salt       []byte `json:"salt"`
	StoredKey  []byte `json:"storedKey"`
	ServerKey  []byte `json:"serverKey"`
}

func (r scramRecord) version() int { return r.V }

func (e *editor) putScram(kv KV) error {
	id, ok := parseScramKey(strings.TrimPrefix(kv.Key, prefixScram))
	if !ok {
		return nil
	}
	r, err := decode[scramRecord](kv)
	if err != nil {
		return err
	}
	e.img.scram = e.img.scram.with(id, &ScramCredential{r.Iterations, r.Salt, r.StoredKey, r.ServerKey, kv.ModRevision})
	return nil
}

func (e *editor) delScram(key string) {
	if id, ok := parseScramKey(strings.TrimPrefix(key, prefixScram)); ok {
		e.img.scram = e.img.scram.with(id, nil)
	}
}

// ScramUpsertion stores a credential made of a salted password.
type ScramUpsertion struct {
	ScramID
	Iterations           int32
	Salt, SaltedPassword []byte
}

// ScramResult answers for one user.
type ScramResult struct {
	User    string
	Err     error
	Message string
}

// AlterScram decides on changes of credentials (KIP-554). Each user may be named
// once in a request and is answered once, by the first thing that is wrong.
// Errors and messages are Kafka's.
func AlterScram(img *Image, deletions []ScramID, upsertions []ScramUpsertion) ([]ScramResult, []Plan) {
	a := scramAlteration{img: img, at: map[string]int{}}
	for _, id := range deletions {
		err, message := deletionProblem(img, id)
		a.add(id, err, message, Op{Kind: OpDelete, Key: scramKey(id)})
	}
	for _, u := range upsertions {
		err, message := upsertionProblem(u)
		op := Op{}
		if err == nil {
			op = Op{Kind: OpPut, Key: scramKey(u.ScramID), Value: encode(u.record())}
		}
		a.add(u.ScramID, err, message, op)
	}
	var plans []Plan
	for n, r := range a.results {
		if r.Err == nil {
			plans = append(plans, Plan{Commit: []Change{a.changes[n]}})
		}
	}
	return a.results, plans
}

// scramAlteration collects the answers for users, and at the same places what
// is to change for them.
type scramAlteration struct {
	img     *Image
	at      map[string]int
	results []ScramResult
	changes []Change
}

func (a *scramAlteration) add(id ScramID, err *kerr.Error, message string, op Op) {
	if n, named := a.at[id.User]; named {
		if r := &a.results[n]; r.Err == nil {
			r.Err, r.Message = kerr.DuplicateResource, "A user credential cannot be altered twice in the same request"
		}
		return
	}
	a.at[id.User] = len(a.results)
	r, c := ScramResult{User: id.User}, Change{Op: op}
	if err != nil {
		r.Err, r.Message = err, message
	}
	if old := a.img.scram.Get(id); old != nil {
		c.Expect = old.revision
	}
	a.results, a.changes = append(a.results, r), append(a.changes, c)
}

func deletionProblem(img *Image, id ScramID) (*kerr.Error, string) {
	switch {
	case id.User == "":
		return kerr.UnacceptableCredential, "Username must not be empty"
	case id.Mechanism.String() == "":
		return kerr.UnsupportedSaslMechanism, "Unknown SCRAM mechanism"
	case img.scram.Get(id) == nil:
		return kerr.ResourceNotFound, "Attempt to delete a user credential that does not exist"
	}
	return nil, ""
}

func upsertionProblem(u ScramUpsertion) (*kerr.Error, string) {
	switch {
	case u.User == "":
		return kerr.UnacceptableCredential, "Username must not be empty"
	case u.Mechanism.String() == "":
		return kerr.UnsupportedSaslMechanism, "Unknown SCRAM mechanism"
	case u.Iterations < minScramIterations:
		return kerr.UnacceptableCredential, "Too few iterations"
	case u.Iterations > maxScramIterations:
		return kerr.UnacceptableCredential, "Too many iterations"
	}
	return nil, ""
}

// record derives the two keys of RFC 5802 from the salted password, which is
// not kept.
func (u ScramUpsertion) record() scramRecord {
	newHash := sha256.New
	if u.Mechanism == ScramSHA512 {
		newHash = sha512.New
	}
	h := newHash()
	_, _ = h.Write(mac(newHash, u.SaltedPassword, "Client Key")) // a hash's Write never fails
	return scramRecord{
		V: 1, Iterations: u.Iterations, Salt: u.Salt,
		StoredKey: h.Sum(nil), ServerKey: mac(newHash, u.SaltedPassword, "Server Key"),
	}
}

func mac(newHash func() hash.Hash, key []byte, text string) []byte {
	m := hmac.New(newHash, key)
	_, _ = m.Write([]byte(text))
	return m.Sum(nil)
}
