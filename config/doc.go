// Package config knows every configuration key of the broker: its type, its
// default, what values it accepts and which other keys stand in for it.
//
// The tables are generated from config/tables: Apache Kafka's keys with Kafka's
// names, defaults and meaning, and beside them the few that only gregor has.
// Build turns what was read from files, environment and command line into
// Values; it reads neither itself.
//
// Values are safe for concurrent use. What was configured at start never
// changes; the dynamic settings that lie above it (KIP-226) are replaced as a
// whole by SetDynamic, and every read sees either the old or the new ones.
package config

//go:generate go run ./internal/gen tables tables_gen.go
