// Package etcdstore keeps the metadata in etcd.
package etcdstore
