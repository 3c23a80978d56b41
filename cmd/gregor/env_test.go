package main

import (
	"slices"
	"testing"
)

func TestEnvProperties(t *testing.T) {
	got := envProperties([]string{
		"PATH=/bin",
		"KAFKA_LISTENERS=PLAINTEXT://:9092",
		"KAFKA_ADVERTISED_LISTENERS=PLAINTEXT://localhost:9092",
		"KAFKA_LISTENER_NAME_TC___0_SASL_JAAS_CONFIG=x=y",
		"KAFKA_A__B=1",
		"KAFKA_CFG_NUM_PARTITIONS=3",
		"KAFKA_HEAP_OPTS=-Xmx1G", "KAFKA_LOG4J_ROOT_LOGLEVEL=WARN", "KAFKA_LOG4J_OPTS=-D", "KAFKA_OPTS=", "KAFKA_JMX_PORT=9999",
		"KAFKA_VERSION=4.3.1", "KAFKA_HOME=/opt/kafka", "KAFKA_PORT=tcp://10.0.0.1:9092", "KAFKA_SERVICE_HOST=10.0.0.1",
		"KAFKA_PORT_9092_TCP_ADDR=10.0.0.1", "KAFKA_SSL_KEYSTORE_FILENAME=a", "KAFKA_CONFLUENT_SUPPORT_METRICS_ENABLE=false",
		"KAFKA_=x",
	})
	want := []envProperty{
		{"KAFKA_ADVERTISED_LISTENERS", "advertised.listeners", "PLAINTEXT://localhost:9092"},
		{"KAFKA_A__B", "a_b", "1"},
		{"KAFKA_CFG_NUM_PARTITIONS", "num.partitions", "3"},
		{"KAFKA_LISTENERS", "listeners", "PLAINTEXT://:9092"},
		{"KAFKA_LISTENER_NAME_TC___0_SASL_JAAS_CONFIG", "listener.name.tc-0.sasl.jaas.config", "x=y"},
	}
	if !slices.Equal(got, want) {
		t.Fatalf("got  %+v\nwant %+v", got, want)
	}
}

func TestEnvDerivesListenersFromAdvertised(t *testing.T) {
	got := envProperties([]string{"KAFKA_ADVERTISED_LISTENERS=PLAINTEXT://host:9092, X://[::1]:9093,"})
	want := "PLAINTEXT://0.0.0.0:9092,X://0.0.0.0:9093"
	if len(got) != 2 || got[1].key != "listeners" || got[1].value != want {
		t.Fatalf("got %+v, want listeners=%s", got, want)
	}
}
