package handler

import (
	"github.com/gregor-broker/gregor/metadata"
	"github.com/gregor-broker/gregor/protocol"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// IncrementalAlterConfigs (44), versions 0 and 1 (KIP-339): changes of single
// keys. v1 is flexible.
//
//   - Topics, this broker, the default of all brokers, groups and client
//     metrics are changed in the cluster's metadata; the change works on this
//     broker when the answer leaves.
//   - A broker's loggers are changed on that broker (KIP-412) and not kept.
//   - Settings of another broker are refused, as Kafka's brokers do.
func incrementalAlterConfigs(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.IncrementalAlterConfigsRequest)
	resp := req.ResponseKind().(*kmsg.IncrementalAlterConfigsResponse)
	answer := func(t kmsg.ConfigResourceType, name string, code int16, text *string) {
		o := kmsg.NewIncrementalAlterConfigsResponseResource()
		o.ResourceType, o.ResourceName, o.ErrorCode, o.ErrorMessage = t, name, code, text
		resp.Resources = append(resp.Resources, o)
	}
	c := newConfigChange(b)
	for i := range req.Resources {
		c.count(req.Resources[i].ResourceType, req.Resources[i].ResourceName)
	}
	for i := range req.Resources {
		res := &req.Resources[i]
		t, name := res.ResourceType, res.ResourceName
		if err, text := c.problem(t, name); err != nil {
			answer(t, name, err.Code, &text)
			continue
		}
		if t == kmsg.ConfigResourceTypeBrokerLogger {
			if err, text := b.alterLoggers(res, req.ValidateOnly); err != nil {
				answer(t, name, err.Code, &text)
			} else {
				answer(t, name, 0, nil)
			}
			continue
		}
		ops := make([]metadata.ConfigOp, len(res.Configs))
		unknown := false
		for n := range res.Configs {
			op := &res.Configs[n]
			ops[n] = metadata.ConfigOp{Key: op.Name, Kind: metadata.ConfigOpKind(op.Op), Value: op.Value}
			unknown = unknown || op.Op < kmsg.IncrementalAlterConfigOpSet || op.Op > kmsg.IncrementalAlterConfigOpSubtract
		}
		if unknown {
			answer(t, name, kerr.UnknownServerError.Code, nil) // so says Kafka
			continue
		}
		c.add(t, name, ops, false)
	}
	for _, res := range c.run(r, req.ValidateOnly) {
		code, text := failure(res.Err, res.Message)
		answer(kmsg.ConfigResourceType(res.Resource.Type), res.Resource.Name, code, text)
	}
	return resp, nil
}

// configChange collects the changes of one request.
type configChange struct {
	b           *Broker
	counts      map[metadata.ConfigResource]int
	alterations []metadata.ConfigAlteration
}

func newConfigChange(b *Broker) *configChange {
	return &configChange{b: b, counts: make(map[metadata.ConfigResource]int)}
}

func configResource(t kmsg.ConfigResourceType, name string) metadata.ConfigResource {
	return metadata.ConfigResource{Type: metadata.ConfigType(t), Name: name}
}

func (c *configChange) count(t kmsg.ConfigResourceType, name string) {
	c.counts[configResource(t, name)]++
}

// problem says what is wrong with a resource before one looks at its keys.
func (c *configChange) problem(t kmsg.ConfigResourceType, name string) (*kerr.Error, string) {
	if c.counts[configResource(t, name)] > 1 {
		return kerr.InvalidRequest, "Each resource must appear at most once."
	}
	switch t {
	case kmsg.ConfigResourceTypeTopic:
		if problem := metadata.NameProblem(name); problem != "" && name != "" {
			return kerr.InvalidTopicException, problem
		}
	case kmsg.ConfigResourceTypeBroker:
		if name != "" {
			if problem := c.b.otherNode(name); problem != "" {
				return kerr.InvalidRequest, problem
			}
		}
	}
	return nil, ""
}

func (c *configChange) add(t kmsg.ConfigResourceType, name string, ops []metadata.ConfigOp, replace bool) {
	c.alterations = append(c.alterations, metadata.ConfigAlteration{Resource: configResource(t, name), Ops: ops, Replace: replace})
}

func (c *configChange) run(r *Request, validateOnly bool) []metadata.ConfigResult {
	if len(c.alterations) == 0 {
		return nil
	}
	ctx, cancel := r.withTimeout(0)
	defer cancel()
	results := c.b.Cluster.AlterConfigs(ctx, c.alterations, validateOnly)
	for i := range results {
		// Kafka says this of brokers, where the value is at stake.
		res := &results[i]
		if res.Resource.Type == metadata.ConfigBroker && protocol.Code(res.Err) == kerr.InvalidConfig.Code {
			res.Message = brokerListMessage(res.Message)
		}
	}
	return results
}
