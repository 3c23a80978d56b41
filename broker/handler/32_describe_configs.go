package handler

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/gregor-broker/gregor/config"
	"github.com/gregor-broker/gregor/metadata"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// DescribeConfigs (32), versions 0 to 4.
//
//   - v0, of clients before 1.1, says only whether a value is a default: for a
//     topic, whether the topic itself has none.
//   - v1 (KIP-226) says where a value comes from, with synonyms if asked; v3
//     (KIP-569) adds types and, if asked, documentation.
//   - Topics, this broker, the default of all brokers (the empty name), this
//     broker's loggers, groups (KIP-848) and client metrics (KIP-714).
//   - Null keys or none mean all of them; a key that is not known is left out.
//   - The answer is bounded, see room.
//   - Values that must stay secret are null and marked as sensitive.
func describeConfigs(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.DescribeConfigsRequest)
	resp := req.ResponseKind().(*kmsg.DescribeConfigsResponse)
	img := b.Cluster.Image()
	room := b.room()
	for i := range req.Resources {
		asked := &req.Resources[i]
		o := kmsg.NewDescribeConfigsResponseResource()
		o.ResourceType, o.ResourceName = asked.ResourceType, asked.ResourceName
		if room.full(&kmsg.DescribeConfigsResponse{Version: req.Version, Resources: last(resp.Resources)}) {
			text := "The resources before it fill the answer."
			o.ErrorCode, o.ErrorMessage = errNoRoom.Code, &text
			resp.Resources = append(resp.Resources, o)
			continue
		}
		entries, err, text := b.describeResource(img, asked)
		if err != nil {
			o.ErrorCode = err.Code
		}
		o.ErrorMessage = &text // never null, also without an error
		for _, e := range entries {
			if len(asked.ConfigNames) == 0 || slices.Contains(asked.ConfigNames, e.Name) {
				o.Configs = append(o.Configs, describedConfig(req, asked, e))
			}
		}
		resp.Resources = append(resp.Resources, o)
	}
	return resp, nil
}

// describeResource returns the entries of one resource.
func (b *Broker) describeResource(img *metadata.Image, asked *kmsg.DescribeConfigsRequestResource) (_ []config.Entry, err *kerr.Error, text string) {
	name := asked.ResourceName
	own := func(t metadata.ConfigType) map[string]string {
		return img.Config(metadata.ConfigResource{Type: t, Name: name})
	}
	switch asked.ResourceType {
	case kmsg.ConfigResourceTypeTopic:
		if problem := metadata.NameProblem(name); problem != "" {
			return nil, kerr.InvalidTopicException, problem
		}
		t := img.Topic(name)
		if t == nil {
			return nil, kerr.UnknownTopicOrPartition, ""
		}
		return b.Config.DescribeTopic(t.Configs), nil, ""
	case kmsg.ConfigResourceTypeBroker:
		if name == "" {
			return b.Config.DescribeBrokerDefaults(), nil, ""
		}
		if problem := b.otherBroker(name, "Unexpected broker id, expected %d or empty string, but received %d"); problem != "" {
			return nil, kerr.InvalidRequest, problem
		}
		return b.Config.DescribeBroker(), nil, ""
	case kmsg.ConfigResourceTypeBrokerLogger:
		if name == "" {
			return nil, kerr.InvalidRequest, "Broker id must not be empty"
		}
		if problem := b.otherBroker(name, "Unexpected broker id, expected %d but received %d"); problem != "" {
			return nil, kerr.InvalidRequest, problem
		}
		return b.describeLoggers(), nil, ""
	case kmsg.ConfigResourceTypeGroupConfig:
		if name == "" {
			return nil, kerr.InvalidRequest, "Group name must not be empty"
		}
		return b.Config.DescribeGroup(own(metadata.ConfigGroup)), nil, ""
	case kmsg.ConfigResourceTypeClientMetrics:
		if name == "" {
			return nil, kerr.InvalidRequest, "Client metrics subscription name must not be empty"
		}
		return config.DescribeClientMetrics(own(metadata.ConfigClientMetrics)), nil, ""
	}
	return nil, kerr.InvalidRequest, "This most likely occurs because of a request being malformed by the client library or the message was sent to an incompatible broker. See the broker logs for more details."
}

// otherBroker says why a broker's resource is not this broker's; format takes
// the expected and the received id.
func (b *Broker) otherBroker(name, format string) string {
	id, err := strconv.ParseInt(name, 10, 32)
	if err != nil {
		return "Broker id must be an integer, but it is: " + name
	}
	if int32(id) != b.NodeID {
		return fmt.Sprintf(format, b.NodeID, id)
	}
	return ""
}

func describedConfig(req *kmsg.DescribeConfigsRequest, asked *kmsg.DescribeConfigsRequestResource, e config.Entry) kmsg.DescribeConfigsResponseResourceConfig {
	c := kmsg.NewDescribeConfigsResponseResourceConfig()
	c.Name, c.Value, c.ReadOnly, c.IsSensitive = e.Name, e.Value, e.ReadOnly, e.Sensitive
	c.Source, c.ConfigType = kmsg.ConfigSource(e.Source), kmsg.ConfigType(e.Type)
	if req.Version == 0 {
		topic := asked.ResourceType == kmsg.ConfigResourceTypeTopic
		c.IsDefault = e.Source == config.DefaultConfig || topic && e.Source != config.DynamicTopic
	}
	if req.IncludeDocumentation {
		c.Documentation = &e.Doc
	}
	if req.IncludeSynonyms {
		for _, s := range e.Synonyms {
			o := kmsg.NewDescribeConfigsResponseResourceConfigConfigSynonym()
			o.Name, o.Value, o.Source = s.Name, s.Value, kmsg.ConfigSource(s.Source)
			c.ConfigSynonyms = append(c.ConfigSynonyms, o)
		}
	}
	return c
}
