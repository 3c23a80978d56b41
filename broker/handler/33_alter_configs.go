package handler

import (
	"github.com/gregor-broker/gregor/metadata"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// AlterConfigs (33), versions 0 to 2: gives a resource exactly the keys of the
// request; all others return to their defaults. The versions answer alike.
// Loggers cannot be changed this way.
func alterConfigs(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.AlterConfigsRequest)
	resp := req.ResponseKind().(*kmsg.AlterConfigsResponse)
	answer := func(t kmsg.ConfigResourceType, name string, code int16, text *string) {
		o := kmsg.NewAlterConfigsResponseResource()
		o.ResourceType, o.ResourceName, o.ErrorCode, o.ErrorMessage = t, name, code, text
		resp.Resources = append(resp.Resources, o)
	}
	c := newConfigChange(b)
	for i := range req.Resources {
		c.count(req.Resources[i].ResourceType, req.Resources[i].ResourceName)
	}
	for i := range req.Resources {
		res := &req.Resources[i]
		err, text := c.problem(res.ResourceType, res.ResourceName)
		if err == nil && res.ResourceType == kmsg.ConfigResourceTypeBrokerLogger {
			err, text = kerr.InvalidRequest, "Unknown resource type 8"
		}
		if err != nil {
			answer(res.ResourceType, res.ResourceName, err.Code, &text)
			continue
		}
		ops := make([]metadata.ConfigOp, len(res.Configs))
		for n := range res.Configs {
			ops[n] = metadata.ConfigOp{Key: res.Configs[n].Name, Value: res.Configs[n].Value}
		}
		c.add(res.ResourceType, res.ResourceName, ops, true)
	}
	for _, res := range c.run(r, req.ValidateOnly) {
		code, text := failure(res.Err, res.Message)
		answer(kmsg.ConfigResourceType(res.Resource.Type), res.Resource.Name, code, text)
	}
	return resp, nil
}
