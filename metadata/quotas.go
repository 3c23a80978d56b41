package metadata

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"net/url"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
)

// The types of entity that have quotas, and the keys of these.
const (
	QuotaUser   = "user"
	QuotaClient = "client-id"
	QuotaIP     = "ip"

	QuotaProducerBytes  = "producer_byte_rate"       // bytes/s, KIP-13
	QuotaConsumerBytes  = "consumer_byte_rate"       // bytes/s, KIP-13
	QuotaRequestPercent = "request_percentage"       // % of one thread, KIP-124
	QuotaMutations      = "controller_mutation_rate" // partitions/s, KIP-599
	QuotaConnections    = "connection_creation_rate" // per second and address, KIP-612
)

// QuotaName names one part of an entity, or stands for all that have no quota
// of their own. The zero value: the entity has no such part.
type QuotaName struct {
	Given, Default bool
	Name           string
}

// QuotaEntity is who a quota is for (KIP-546): a user, a client id, both, or
// an address.
type QuotaEntity struct{ User, Client, IP QuotaName }

// QuotaEntry is the quotas of one entity.
type QuotaEntry struct {
	Entity QuotaEntity
	// Values holds the quotas by key, none of them 0.
	Values   map[string]float64
	revision int64
}

// QuotaSet is all quotas of a cluster. It never changes: who finds the same
// pointer in two images finds the same quotas.
type QuotaSet struct{ entries map[QuotaEntity]*QuotaEntry }

// Quotas returns the quotas that are set, nil if none are.
func (i *Image) Quotas() *QuotaSet { return i.quotas }

// All returns the entries, sorted by entity.
func (s *QuotaSet) All() []*QuotaEntry {
	if s == nil {
		return nil
	}
	return slices.SortedFunc(maps.Values(s.entries), func(a, b *QuotaEntry) int {
		return cmp.Compare(quotaKey(a.Entity), quotaKey(b.Entity))
	})
}

// Client returns a quota of requests of a user with a client id, and whom the
// user shares it with; false if there is none. Quotas of a user and a client id
// go before those of a user, and these before those of a client id; a name goes
// before the default. A quota of both, or the default of both, is each pair's
// own; one of users is shared by all clients of a user, one of client ids by
// all users of it.
func (s *QuotaSet) Client(key, user, client string) (quota float64, sharer QuotaEntity, ok bool) {
	if s == nil {
		return 0, QuotaEntity{}, false
	}
	u, c, any, none := QuotaName{Given: true, Name: user}, QuotaName{Given: true, Name: client}, QuotaName{Given: true, Default: true}, QuotaName{}
	for _, e := range [...]QuotaEntity{
		{User: u, Client: c},
		{User: u, Client: any},
		{User: u},
		{User: any, Client: c},
		{User: any, Client: any},
		{User: any},
		{Client: c},
		{Client: any},
	} {
		if entry := s.entries[e]; entry != nil && entry.Values[key] > 0 {
			if e.User != none {
				sharer.User = u
			}
			if e.Client != none {
				sharer.Client = c
			}
			return entry.Values[key], sharer, true
		}
	}
	return 0, QuotaEntity{}, false
}

// DefaultIP returns the connection rate of addresses that have none of their
// own, 0 if there is no such quota.
func (s *QuotaSet) DefaultIP() float64 {
	if s == nil {
		return 0
	}
	entry := s.entries[QuotaEntity{IP: QuotaName{Given: true, Default: true}}]
	if entry == nil {
		return 0
	}
	return entry.Values[QuotaConnections]
}

// with returns the set with an entry more or, if it holds no values, less.
func (s *QuotaSet) with(e *QuotaEntry) *QuotaSet {
	next := &QuotaSet{entries: map[QuotaEntity]*QuotaEntry{}}
	if s != nil {
		maps.Copy(next.entries, s.entries)
	}
	if len(e.Values) == 0 {
		delete(next.entries, e.Entity)
	} else {
		next.entries[e.Entity] = e
	}
	if len(next.entries) == 0 {
		return nil
	}
	return next
}

// quotaKey is the store's key of an entity: its parts in the order of their
// types, as type=name or, for the default, the type alone.
func quotaKey(e QuotaEntity) string {
	var parts []string
	for _, p := range []struct {
		kind string
		name QuotaName
	}{{QuotaClient, e.Client}, {QuotaIP, e.IP}, {QuotaUser, e.User}} {
		switch {
		case p.name.Default:
			parts = append(parts, p.kind)
		case p.name.Given:
			parts = append(parts, p.kind+"="+url.PathEscape(p.name.Name))
		}
	}
	return prefixQuotas + strings.Join(parts, "/")
}

func parseQuotaKey(rest string) (e QuotaEntity, ok bool) {
	for part := range strings.SplitSeq(rest, "/") {
		kind, escaped, named := strings.Cut(part, "=")
		name, err := url.PathUnescape(escaped)
		p := e.part(kind)
		if err != nil || p == nil || p.Given {
			return e, false
		}
		*p = QuotaName{Given: true, Default: !named, Name: name}
	}
	return e, true
}

// part returns the part of an entity that is of this type, nil if there is no
// such type.
func (e *QuotaEntity) part(kind string) *QuotaName {
	switch kind {
	case QuotaUser:
		return &e.User
	case QuotaClient:
		return &e.Client
	case QuotaIP:
		return &e.IP
	}
	return nil
}

type quotaRecord struct {
	V      int                `json:"v"`
	Quotas map[string]float64 `json:"quotas"`
}

func (r quotaRecord) version() int { return r.V }

func (e *editor) putQuota(kv KV) error {
	entity, ok := parseQuotaKey(strings.TrimPrefix(kv.Key, prefixQuotas))
	if !ok {
		return nil
	}
	r, err := decode[quotaRecord](kv)
	if err != nil {
		return err
	}
	e.img.quotas = e.img.quotas.with(&QuotaEntry{Entity: entity, Values: r.Quotas, revision: kv.ModRevision})
	return nil
}

func (e *editor) delQuota(key string) {
	if entity, ok := parseQuotaKey(strings.TrimPrefix(key, prefixQuotas)); ok {
		e.img.quotas = e.img.quotas.with(&QuotaEntry{Entity: entity})
	}
}

// QuotaPart is one part of an entity in a request; a nil Name stands for the
// default.
type QuotaPart struct {
	Type string
	Name *string
}

// QuotaOp sets a quota, or removes it.
type QuotaOp struct {
	Key    string
	Value  float64
	Remove bool
}

// QuotaAlteration changes the quotas of one entity.
type QuotaAlteration struct {
	Entity []QuotaPart
	Ops    []QuotaOp
}

// QuotaResult answers the alterations of one entity.
type QuotaResult struct {
	Entity  []QuotaPart
	Err     error
	Message string
}

// AlterQuotas decides on changes of quotas (KIP-546). An entity that a request
// names twice is changed as it was first asked for, and answered once, with
// an error. Errors and messages are Kafka's. resolves says whether a host name
// can be looked up.
func AlterQuotas(img *Image, alterations []QuotaAlteration, resolves func(host string) bool) ([]QuotaResult, []Plan) {
	var results []QuotaResult
	var plans []Plan
	at := map[string]int{}
	for _, a := range alterations {
		parts := distinct(a.Entity)
		text := entityText(parts)
		if n, twice := at[text]; twice {
			results[n].Err, results[n].Message = kerr.InvalidRequest, "Ignoring duplicate entity "+text
			continue
		}
		at[text] = len(results)
		r := QuotaResult{Entity: parts}
		seen := map[string]bool{}
		for _, op := range a.Ops {
			if seen[op.Key] {
				r.Err, r.Message = kerr.InvalidRequest, "Ignoring duplicate entity "+text
			}
			seen[op.Key] = true
		}
		if r.Err == nil {
			next, problem := nextQuotas(img, parts, a.Ops, resolves)
			if problem != "" {
				r.Err, r.Message = kerr.InvalidRequest, problem
			} else if change, differs := putQuotas(img, next); differs {
				plans = append(plans, Plan{Commit: []Change{change}})
			}
		}
		results = append(results, r)
	}
	return results, plans
}

// distinct keeps the last part of each type.
func distinct(parts []QuotaPart) []QuotaPart {
	var out []QuotaPart
	for n, p := range parts {
		if !slices.ContainsFunc(parts[n+1:], func(later QuotaPart) bool { return later.Type == p.Type }) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b QuotaPart) int { return strings.Compare(a.Type, b.Type) })
	return out
}

func entityText(parts []QuotaPart) string {
	var all []string
	for _, p := range parts {
		name := "null"
		if p.Name != nil {
			name = *p.Name
		}
		all = append(all, p.Type+"="+name)
	}
	return "ClientQuotaEntity(entries={" + strings.Join(all, ", ") + "})"
}

// nextQuotas is what an entity will have.
func nextQuotas(img *Image, parts []QuotaPart, ops []QuotaOp, resolves func(string) bool) (*QuotaEntry, string) {
	entity, problem := quotaEntity(parts, resolves)
	if problem != "" {
		return nil, problem
	}
	next := &QuotaEntry{Entity: entity, Values: map[string]float64{}}
	if img.quotas != nil && img.quotas.entries[entity] != nil {
		maps.Copy(next.Values, img.quotas.entries[entity].Values)
	}
	for _, op := range ops {
		if op.Remove {
			delete(next.Values, op.Key)
			continue
		}
		if problem := quotaProblem(entity, op); problem != "" {
			return nil, problem
		}
		next.Values[op.Key] = op.Value
	}
	return next, ""
}

func quotaEntity(parts []QuotaPart, resolves func(string) bool) (e QuotaEntity, problem string) {
	if len(parts) == 0 {
		return e, "Invalid empty client quota entity"
	}
	for _, p := range parts {
		part := e.part(p.Type)
		switch {
		case part == nil:
			return e, "Unhandled client quota entity type: " + p.Type
		case p.Name != nil && *p.Name == "":
			return e, fmt.Sprintf("Empty %s not supported", p.Type)
		case p.Name == nil:
			*part = QuotaName{Given: true, Default: true}
		default:
			*part = QuotaName{Given: true, Name: *p.Name}
		}
	}
	if e.IP.Given && (e.User.Given || e.Client.Given) {
		return e, "Invalid quota entity combination, IP entity shouldnot be combined with User or ClientId" //nolint:misspell // Kafka's words
	}
	if e.IP.Given && !e.IP.Default && !resolves(e.IP.Name) {
		return e, e.IP.Name + " is not a valid IP or resolvable host."
	}
	return e, ""
}

// quotaProblem says why an entity cannot have a quota.
func quotaProblem(e QuotaEntity, op QuotaOp) string {
	limit, kind := 0.0, ""
	switch {
	case e.IP.Given && op.Key == QuotaConnections:
		limit, kind = math.MaxInt32, "an INT"
	case !e.IP.Given && (op.Key == QuotaProducerBytes || op.Key == QuotaConsumerBytes):
		limit, kind = math.MaxInt64, "a LONG"
	case !e.IP.Given && (op.Key == QuotaRequestPercent || op.Key == QuotaMutations):
	default:
		return "Invalid configuration key " + op.Key
	}
	const epsilon = 1e-6 // what Kafka takes for a whole number
	switch {
	case !(op.Value > 0):
		return fmt.Sprintf("Quota %s must be greater than 0", op.Key)
	case kind == "":
		if math.IsInf(op.Value, 1) {
			return fmt.Sprintf("Quota %s must be a number", op.Key)
		}
		return ""
	case op.Value > limit:
		return fmt.Sprintf("Proposed value for %s is too large for %s.", op.Key, kind)
	case math.Abs(op.Value-math.Round(op.Value)) > epsilon:
		return op.Key + " cannot be a fractional value."
	}
	return ""
}

// putQuotas is the change that gives an entity these quotas, if it has others.
func putQuotas(img *Image, next *QuotaEntry) (Change, bool) {
	old := &QuotaEntry{}
	if img.quotas != nil && img.quotas.entries[next.Entity] != nil {
		old = img.quotas.entries[next.Entity]
	}
	op := Op{Kind: OpPut, Key: quotaKey(next.Entity), Value: encode(quotaRecord{V: 1, Quotas: next.Values})}
	if len(next.Values) == 0 {
		op = Op{Kind: OpDelete, Key: op.Key}
	}
	return Change{Op: op, Expect: old.revision}, !maps.Equal(old.Values, next.Values)
}
