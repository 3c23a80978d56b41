// Package compat runs real Kafka clients, each in its own language, against
// gregor and against Apache Kafka with one and the same script: what passes on
// Apache Kafka proves the script, what then fails on gregor is gregor's bug.
//
// Nothing here imports gregor. The tests speak TCP, the brokers are processes.
//
//	go test                                          franz-go against gregor, built from this tree
//	go test -count=1 -broker both -clients all       everything (make compat)
//	go test -count=1 -broker kafka -clients all      the scripts themselves
//
// Every client obeys the same small command language (see [harness.Client]), so
// that a test is written once in Go and compares bytes, not counts. What the
// machine lacks is skipped aloud, and is a failure where CI=true is set.
package compat
