package handler

import (
	"strconv"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ListConfigResources (74), versions 0 and 1: the names of what has settings.
//
//   - v0 lists client metrics (KIP-714); v1 (KIP-1142) the types asked for, or
//     topics, brokers, loggers, client metrics and groups if none is.
//   - A type that is not known is UNSUPPORTED_VERSION.
func listConfigResources(b *Broker, r *Request) (kmsg.Response, error) {
	req := r.Body.(*kmsg.ListConfigResourcesRequest)
	resp := req.ResponseKind().(*kmsg.ListConfigResourcesResponse)
	all := []metadata.ConfigType{
		metadata.ConfigTopic, metadata.ConfigBroker, metadata.ConfigBrokerLogger, metadata.ConfigClientMetrics, metadata.ConfigGroup,
	}
	asked := make(map[metadata.ConfigType]bool)
	for _, t := range req.ResourceTypes {
		asked[metadata.ConfigType(t)] = true
	}
	if req.Version == 0 {
		asked = map[metadata.ConfigType]bool{metadata.ConfigClientMetrics: true}
	}
	known := 0
	for _, t := range all {
		if asked[t] {
			known++
		}
	}
	if known < len(asked) {
		resp.ErrorCode = kerr.UnsupportedVersion.Code
		return resp, nil
	}
	img := b.Cluster.Image()
	for _, t := range all {
		if len(asked) == 0 || asked[t] {
			for _, name := range configNames(img, t) {
				o := kmsg.NewListConfigResourcesResponseConfigResource()
				o.Name, o.Type = name, int8(t)
				resp.ConfigResources = append(resp.ConfigResources, o)
			}
		}
	}
	return resp, nil
}

// configNames lists every topic and broker, whether it has settings of its own
// or not, and those groups and subscriptions that have.
func configNames(img *metadata.Image, t metadata.ConfigType) (names []string) {
	switch t {
	case metadata.ConfigTopic:
		for _, topic := range img.Topics() {
			names = append(names, topic.Name)
		}
	case metadata.ConfigBroker, metadata.ConfigBrokerLogger:
		for _, br := range img.Brokers() {
			names = append(names, strconv.Itoa(int(br.ID)))
		}
	default:
		for _, r := range img.ConfigResources(t) {
			names = append(names, r.Name)
		}
	}
	return names
}
