// Package memstore keeps the metadata of brokers in memory.
package memstore
