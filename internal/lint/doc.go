// Package lint holds the rules of ARCHITECTURE.md as tests: which package may
// import which, what the pure packages keep away from, that every package says
// what it is for, and what no committed file may contain. It has no code of its
// own; run it with go test.
package lint
