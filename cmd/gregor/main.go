// Command gregor is a Kafka broker in one binary.
//
//	gregor start [server.properties] [--override key=value ...]
//
// starts it; the other commands prepare a data directory, show the
// configuration that a start would use, and print versions. This package reads
// flags, the environment and properties files, and hands the result to package
// node, which runs the broker.
package main

import (
	"fmt"
	"os"
)

func main() {
	if err := newRootCommand().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "gregor: "+err.Error())
		os.Exit(1)
	}
}
