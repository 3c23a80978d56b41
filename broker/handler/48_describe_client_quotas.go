package handler

import (
	"cmp"
	"maps"
	"slices"
	"strconv"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeClientQuotas (48), versions 0 and 1 (KIP-546): the quotas of the
// entities that match all components; with strict, of those that have no other
// part. v1 is flexible.
func describeClientQuotas(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.DescribeClientQuotasRequest)
	resp := req.ResponseKind().(*kmsg.DescribeClientQuotasResponse)
	if code, text := quotaFilterProblem(req.Components); code != 0 {
		resp.ErrorCode, resp.ErrorMessage = code, &text
		return resp, nil
	}
	resp.ErrorMessage = new(string)
	resp.Entries = []kmsg.DescribeClientQuotasResponseEntry{}
	for _, q := range b.Cluster.Image().Quotas().All() {
		if !quotaMatches(q.Entity, req.Components, req.Strict) {
			continue
		}
		e := kmsg.NewDescribeClientQuotasResponseEntry()
		for _, p := range quotaParts(q.Entity) {
			part := kmsg.NewDescribeClientQuotasResponseEntryEntity()
			part.Type, part.Name = p.Type, p.Name
			e.Entity = append(e.Entity, part)
		}
		for _, key := range quotaKeys(q.Values) {
			v := kmsg.NewDescribeClientQuotasResponseEntryValue()
			v.Key, v.Value = key, q.Values[key]
			e.Values = append(e.Values, v)
		}
		resp.Entries = append(resp.Entries, e)
	}
	return resp, nil
}

// quotaFilterProblem says what is wrong with a filter, with code 0 for nothing.
func quotaFilterProblem(components []kmsg.DescribeClientQuotasRequestComponent) (code int16, text string) {
	has := map[string]bool{}
	for _, c := range components {
		switch {
		case c.EntityType == "":
			return kerr.InvalidRequest.Code, "Invalid empty entity type."
		case has[c.EntityType]:
			return kerr.InvalidRequest.Code, "Entity type " + c.EntityType + " cannot appear more than once in the filter."
		case c.EntityType != metadata.QuotaUser && c.EntityType != metadata.QuotaClient && c.EntityType != metadata.QuotaIP:
			return kerr.UnsupportedVersion.Code, "Unsupported entity type " + c.EntityType
		}
		has[c.EntityType] = true
		switch c.MatchType {
		case kmsg.QuotasMatchTypeExact:
			if c.Match == nil {
				return kerr.InvalidRequest.Code, "Request specified MATCH_TYPE_EXACT, but set match string to null."
			}
		case kmsg.QuotasMatchTypeDefault:
			if c.Match != nil {
				return kerr.InvalidRequest.Code, "Request specified MATCH_TYPE_DEFAULT, but also specified a match string."
			}
		case kmsg.QuotasMatchTypeAny:
			if c.Match != nil {
				return kerr.InvalidRequest.Code, "Request specified MATCH_TYPE_SPECIFIED, but also specified a match string."
			}
		default:
			return kerr.InvalidRequest.Code, "Unknown match type " + strconv.Itoa(int(c.MatchType))
		}
	}
	if has[metadata.QuotaIP] && len(has) > 1 {
		return kerr.InvalidRequest.Code, "Invalid entity filter component combination. IP filter component should not be used with user or clientId filter component."
	}
	return 0, ""
}

func quotaMatches(e metadata.QuotaEntity, components []kmsg.DescribeClientQuotasRequestComponent, strict bool) bool {
	parts := quotaParts(e)
	for _, c := range components {
		ok := slices.ContainsFunc(parts, func(p metadata.QuotaPart) bool {
			switch {
			case p.Type != c.EntityType:
				return false
			case c.MatchType == kmsg.QuotasMatchTypeAny:
				return true
			case c.Match == nil || p.Name == nil:
				return c.Match == nil && p.Name == nil
			}
			return *c.Match == *p.Name
		})
		if !ok {
			return false
		}
	}
	return !strict || len(parts) == len(components)
}

// quotaKeys sorts the keys of quotas as Kafka describes up to three of one
// entity: its hashes make that order, and there are clients that rely on it.
func quotaKeys(values map[string]float64) []string {
	order := []string{metadata.QuotaConsumerBytes, metadata.QuotaMutations, metadata.QuotaRequestPercent, metadata.QuotaProducerBytes}
	return slices.SortedFunc(maps.Keys(values), func(a, b string) int {
		return cmp.Compare(slices.Index(order, a), slices.Index(order, b))
	})
}

// quotaParts are the parts of an entity as requests have them, in Kafka's order.
func quotaParts(e metadata.QuotaEntity) (parts []metadata.QuotaPart) {
	for _, p := range []struct {
		kind string
		name metadata.QuotaName
	}{{metadata.QuotaClient, e.Client}, {metadata.QuotaUser, e.User}, {metadata.QuotaIP, e.IP}} {
		switch {
		case p.name.Default:
			parts = append(parts, metadata.QuotaPart{Type: p.kind})
		case p.name.Given:
			parts = append(parts, metadata.QuotaPart{Type: p.kind, Name: &p.name.Name})
		}
	}
	return parts
}
