package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// JavaPipe is the command line of a process that moves records in transactions,
// see java/pipe/Pipe.java, with the given version of the client.
func JavaPipe(version string, args ...string) (string, []string, error) {
	java, classPath, err := javaProgram("java-pipe-"+version, version, source("java", "pipe", "Pipe.java"))
	argv := append(append([]string{}, JavaFlags...), "-cp", classPath, "Pipe")
	return java, append(argv, args...), err
}

// PythonPipe is JavaPipe with librdkafka.
func PythonPipe(args ...string) (string, []string, error) {
	bin, err := PythonBin()
	return bin, pythonArgs("pipe.py", args...), err
}

// NodePipe is JavaPipe with a client for Node: kafkajs or confluent.
func NodePipe(library string, args ...string) (string, []string, error) {
	program, argv, err := nodeProgram("pipe.js", library)
	return program, append(argv, args...), err
}

// NodeTransactor starts a client for Node, kafkajs or confluent, that knows the
// commands about transactions.
func NodeTransactor(library, bootstrap string) (Client, error) {
	program, argv, err := nodeProgram("txn.js", library)
	if err != nil {
		return nil, err
	}
	return startSession(library, []string{"none"}, program, append(argv, bootstrap)...)
}

// nodeProgram is the command line of a program in node/, whose libraries are
// where npm put them.
func nodeProgram(name, library string) (string, []string, error) {
	node, err := Need("node", "the clients of Node")
	if err != nil {
		return "", nil, err
	}
	dir, err := nodeModules(library)
	return "env", []string{"NODE_PATH=" + dir, node, source("node", name), library}, err
}

// nodeModules is where npm installed a client for Node. Confluent's comes with a
// prebuilt library where its download can be reached, and is compiled with what
// the machine has where not.
func nodeModules(library string) (string, error) {
	dependency, ok := map[string]string{"kafkajs": KafkaJS, "confluent": ConfluentNode}[library]
	if !ok {
		return "", fmt.Errorf("no client %q for Node", library)
	}
	name, version, _ := strings.Cut(dependency, " ")
	manifest := fmt.Sprintf(`{"name": "gregor-compat-txn", "private": true, "dependencies": {%q: %q}}`, name, version)
	dir, err := Installed("node-txn-"+library, []string{manifest}, func(dir string) error {
		npm, err := Need("npm", name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "package.json"), []byte(manifest), 0o644); err != nil {
			return err
		}
		if err := Run(dir, "env", "CKJS_LINKING=dynamic", nodeHeaders(), npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", dir); err != nil {
			return &MissingError{What: name, Reason: err.Error()}
		}
		return nil
	})
	return filepath.Join(dir, "node_modules"), err
}

// nodeHeaders is the setting that lets npm compile against the headers that came
// with node, if they did, rather than download them.
func nodeHeaders() string {
	const setting = "npm_config_nodedir="
	node, err := exec.LookPath("node")
	if err != nil {
		return setting
	}
	prefix := filepath.Dir(filepath.Dir(node))
	if _, err := os.Stat(filepath.Join(prefix, "include", "node", "node.h")); err != nil {
		return setting
	}
	return setting + prefix
}
