package main

import (
	"slices"
	"strings"
)

// envProperty is a broker key given by an environment variable.
type envProperty struct {
	variable, key, value string
}

// envProperties translates KAFKA_... variables (environ as os.Environ gives
// it) into broker keys in the form of the apache/kafka image: lower case, _
// becomes a dot, __ an underscore, ___ a dash. KAFKA_CFG_..., the form of the
// bitnami image, is accepted too. What an image or an orchestrator puts into
// the environment without meaning a broker key is left out. The result is
// sorted by variable.
func envProperties(environ []string) []envProperty {
	var props []envProperty
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		rest, ok := strings.CutPrefix(name, "KAFKA_")
		if !ok || rest == "" || !meantAsKey(rest, value) {
			continue
		}
		rest = strings.TrimPrefix(rest, "CFG_")
		props = append(props, envProperty{variable: name, key: envKey(rest), value: value})
	}
	slices.SortFunc(props, func(a, b envProperty) int { return strings.Compare(a.variable, b.variable) })
	return withDerivedListeners(props)
}

// envKey turns the part after the prefix into a key.
func envKey(s string) string {
	s = strings.ToLower(s)
	s = strings.ReplaceAll(s, "_", ".")
	s = strings.ReplaceAll(s, "...", "-")
	return strings.ReplaceAll(s, "..", "_")
}

// meantAsKey tells broker keys from the other variables that begin with
// KAFKA_: those that steer the JVM or the image's scripts, and those that
// Kubernetes injects for a service named "kafka".
func meantAsKey(rest, value string) bool {
	switch rest {
	case "VERSION", "HOME", "OPTS", "HEAP_OPTS", "GC_LOG_OPTS", "JVM_PERFORMANCE_OPTS", "JMX_PORT", "JMX_OPTS", "JMX_HOSTNAME",
		"DATA_DIRS", "DEBUG", "MODE", "LOG_DIR_OPTS", "TOOLS_LOG4J_LOGLEVEL", "CLUSTER_ID", "SCALA_VERSION",
		"SERVICE_HOST", "SERVICE_PORT", "PORT":
		return false
	}
	for _, prefix := range []string{"LOG4J", "JMX_", "SERVICE_PORT_", "PORT_", "CONFLUENT_", "REST_", "SCHEMA_REGISTRY_", "KRAFT_"} {
		if strings.HasPrefix(rest, prefix) {
			return false
		}
	}
	// Credential files of the images hold what ssl.*.password says.
	for _, suffix := range []string{"_FILENAME", "_CREDENTIALS"} {
		if strings.HasPrefix(rest, "SSL_") && strings.HasSuffix(rest, suffix) {
			return false
		}
	}
	return !strings.HasPrefix(value, "tcp://") && !strings.HasPrefix(value, "udp://")
}

// withDerivedListeners gives listeners where only advertised.listeners are
// set, with every host replaced by 0.0.0.0, as the apache/kafka image does.
func withDerivedListeners(props []envProperty) []envProperty {
	var advertised *envProperty
	for i := range props {
		switch props[i].key {
		case "listeners":
			return props
		case "advertised.listeners":
			advertised = &props[i]
		}
	}
	if advertised == nil {
		return props
	}
	var listeners []string
	for _, l := range strings.Split(advertised.value, ",") {
		name, address, ok := strings.Cut(strings.TrimSpace(l), "://")
		colon := strings.LastIndexByte(address, ':')
		if !ok || colon < 0 {
			continue
		}
		listeners = append(listeners, name+"://0.0.0.0"+address[colon:])
	}
	if len(listeners) == 0 {
		return props
	}
	return append(props, envProperty{variable: advertised.variable, key: "listeners", value: strings.Join(listeners, ",")})
}
