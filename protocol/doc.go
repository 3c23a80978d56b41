// Package protocol turns bytes into Kafka requests and back.
package protocol

// Header is a Kafka request header, v0 to v2.
type Header struct {
	Key, Version  int16
	CorrelationID int32
	ClientID      string
	HasClientID   bool
}
