// Package etcdembed runs an etcd server inside this process.
package etcdembed
