package handler

import (
	"context"
	"net"
	"net/netip"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// AlterClientQuotas (49), versions 0 and 1 (KIP-546): sets and removes quotas
// of users, client ids and addresses. v1 is flexible.
//
// An entity that a request holds twice, or a key twice for one entity, is an
// INVALID_REQUEST. The quotas hold on this broker when the answer leaves.
func alterClientQuotas(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.AlterClientQuotasRequest)
	resp := req.ResponseKind().(*kmsg.AlterClientQuotasResponse)
	ctx, cancel := r.withTimeout(0)
	defer cancel()
	known := map[string]bool{}
	alterations := make([]metadata.QuotaAlteration, len(req.Entries))
	for i, e := range req.Entries {
		for _, p := range e.Entity {
			alterations[i].Entity = append(alterations[i].Entity, metadata.QuotaPart{Type: p.Type, Name: p.Name})
			if p.Type == metadata.QuotaIP && p.Name != nil {
				known[*p.Name] = resolves(ctx, *p.Name)
			}
		}
		for _, op := range e.Ops {
			alterations[i].Ops = append(alterations[i].Ops, metadata.QuotaOp{Key: op.Key, Value: op.Value, Remove: op.Remove})
		}
	}
	if len(alterations) == 0 {
		return resp, nil
	}
	results, err := b.Cluster.AlterQuotas(ctx, alterations, func(host string) bool { return known[host] }, req.ValidateOnly)
	if err != nil {
		for _, a := range alterations {
			results = append(results, metadata.QuotaResult{Entity: a.Entity, Err: err})
		}
	}
	for _, res := range results {
		e := kmsg.NewAlterClientQuotasResponseEntry()
		e.ErrorCode, e.ErrorMessage = failure(res.Err, res.Message)
		for _, p := range res.Entity {
			part := kmsg.NewAlterClientQuotasResponseEntryEntity()
			part.Type, part.Name = p.Type, p.Name
			e.Entity = append(e.Entity, part)
		}
		resp.Entries = append(resp.Entries, e)
	}
	return resp, nil
}

// resolves says whether a text is an address or a host's name.
func resolves(ctx context.Context, host string) bool {
	if _, err := netip.ParseAddr(host); err == nil || host == "" {
		return err == nil
	}
	addrs, err := net.DefaultResolver.LookupHost(ctx, host)
	return err == nil && len(addrs) > 0
}
