// Package storage keeps partitions on disk, in Kafka's own file form.
package storage
