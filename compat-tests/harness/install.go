package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// Versions that are installed. Changing one here is all it takes.
const (
	KafkaVersion    = "4.3.1"
	ConfluentPython = "confluent-kafka, as python/requirements.txt pins it"
	// Clients for Node, as npm names them.
	KafkaJS       = "kafkajs 2.2.4"
	ConfluentNode = "@confluentinc/kafka-javascript 1.10.1"
)

// JavaLines are the lines of the Java client that are tried: the newest, the
// last of the 2.x line, and the first with everything message format v2 has.
var JavaLines = []string{"4.3.1", "2.8.2", "1.1.1"}

// AllJavaLines are the lines with a data path of their own since record format
// v2 came, for a wider run than the default.
const AllJavaLines = "0.11.0.3,1.0.2,1.1.1,2.0.1,2.1.1,2.4.1,2.8.2,3.0.2,3.3.2,3.6.2,3.9.1,4.0.0,4.1.1,4.3.1"

// AtLeast tells whether a version is major.minor or later.
func AtLeast(version string, major, minor int) bool {
	var a, b int
	if _, err := fmt.Sscanf(version, "%d.%d", &a, &b); err != nil {
		return false
	}
	return a > major || a == major && b >= minor
}

// root is the directory of compat-tests, wherever the tests run from.
func root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(file))
}

// Root is the directory of compat-tests.
func Root() string { return root() }

func source(parts ...string) string { return filepath.Join(append([]string{root()}, parts...)...) }

func contents(paths ...string) ([]string, error) {
	var out []string
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			return nil, err
		}
		out = append(out, string(b))
	}
	return out, nil
}

// jars resolves a pom into a directory of jars.
func jars(name, pom string, properties ...string) (string, error) {
	inputs, err := contents(pom)
	if err != nil {
		return "", err
	}
	return Installed(name, append(inputs, properties...), func(dir string) error {
		mvn, err := Need("mvn", "the Java clients and Apache Kafka")
		if err != nil {
			return err
		}
		args := append([]string{
			"-q", "-B", "--no-transfer-progress", "-f", pom,
			"dependency:copy-dependencies", "-DoutputDirectory=" + dir, "-DincludeScope=runtime",
		}, properties...)
		return Run(dir, mvn, args...)
	})
}

// KafkaJars is a directory with the jars of Apache Kafka's broker and tools.
func KafkaJars() (string, error) {
	if _, err := Need("java", "Apache Kafka"); err != nil {
		return "", err
	}
	return jars("kafka-"+KafkaVersion, source("java", "kafka.pom.xml"), "-Dkafka="+KafkaVersion)
}

// ClientJars is a directory with one line of the Java client.
func ClientJars(version string) (string, error) {
	return jars("clients-"+version, source("java", "clients.pom.xml"), "-Dclients="+version)
}

// JavaFlags make short-lived JVMs start fast and stay small.
var JavaFlags = []string{"-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"}

// javaProgram compiles sources with a line of the Java client. It returns java
// and the class path to run them with.
func javaProgram(name, version string, sources ...string) (java, classPath string, err error) {
	if java, err = Need("java", "the Java client"); err != nil {
		return "", "", err
	}
	javac, err := Need("javac", "the Java client")
	if err != nil {
		return "", "", err
	}
	libs, err := ClientJars(version)
	if err != nil {
		return "", "", err
	}
	inputs, err := contents(sources...)
	if err != nil {
		return "", "", err
	}
	classes, err := Installed(name, append(inputs, libs), func(dir string) error {
		return Run(dir, javac, append([]string{"-nowarn", "-encoding", "UTF-8", "-cp", libs + "/*", "-d", dir}, sources...)...)
	})
	return java, classes + ":" + libs + "/*", err
}

// Java starts the Java client of the given line.
func Java(version, bootstrap string) (Client, error) {
	sources := []string{source("java", "src", "Compat.java"), source("java", "src", "Txn.java")}
	codecs := []string{"none", "gzip", "snappy", "lz4"}
	if AtLeast(version, 1, 1) {
		sources = append(sources, source("java", "src", "Since11.java"))
	}
	if AtLeast(version, 2, 1) {
		codecs = append(codecs, "zstd")
	}
	if AtLeast(version, 2, 8) {
		sources = append(sources, source("java", "src", "Modern.java"))
	}
	if AtLeast(version, 4, 0) {
		sources = append(sources, source("java", "src", "Latest.java"))
	}
	java, classPath, err := javaProgram("java-"+version, version, sources...)
	if err != nil {
		return nil, err
	}
	args := append(append([]string{}, JavaFlags...), "-cp", classPath, "Compat", bootstrap)
	return startSession("java-"+version, codecs, java, args...)
}

// PythonBin is the interpreter of an environment with confluent-kafka.
func PythonBin() (string, error) {
	requirements := source("python", "requirements.txt")
	inputs, err := contents(requirements)
	if err != nil {
		return "", err
	}
	dir, err := Installed("python", inputs, func(dir string) error {
		python, err := Need("python3", "confluent-kafka")
		if err != nil {
			return err
		}
		if err := Run(dir, python, "-m", "venv", dir); err != nil {
			return &MissingError{What: "confluent-kafka", Reason: err.Error()}
		}
		return Run(dir, filepath.Join(dir, "bin", "pip"), "install", "-q", "--disable-pip-version-check", "-r", requirements)
	})
	return filepath.Join(dir, "bin", "python"), err
}

// Python starts librdkafka's client, through confluent-kafka.
func Python(bootstrap string) (Client, error) {
	bin, err := PythonBin()
	if err != nil {
		return nil, err
	}
	return startSession("librdkafka", []string{"none", "gzip", "snappy", "lz4", "zstd"}, bin, source("python", "compat.py"), bootstrap)
}

// Kcat is the path of kcat, installed from Debian where this process may.
func Kcat() (string, error) {
	if path, err := exec.LookPath("kcat"); err == nil {
		return path, nil
	}
	apt, err := exec.LookPath("apt-get")
	switch {
	case err != nil:
		return "", &MissingError{What: "kcat", Reason: "not in the PATH, and no apt-get to install it with"}
	case os.Geteuid() != 0:
		return "", &MissingError{What: "kcat", Reason: "not in the PATH, and only root may run: apt-get install kcat"}
	}
	if err := Run("/", apt, "install", "-y", "-q", "--no-install-recommends", "kcat"); err != nil {
		if err := Run("/", apt, "update", "-q"); err != nil {
			return "", &MissingError{What: "kcat", Reason: err.Error()}
		}
		if err := Run("/", apt, "install", "-y", "-q", "--no-install-recommends", "kcat"); err != nil {
			return "", &MissingError{What: "kcat", Reason: err.Error()}
		}
	}
	path, err := exec.LookPath("kcat")
	if err != nil {
		return "", fmt.Errorf("kcat was installed but is not in the PATH: %w", err)
	}
	return path, nil
}

// JUnitJars is a directory with Apache Kafka's own tests of its clients.
func JUnitJars() (string, error) {
	return jars("junit-"+KafkaVersion, source("java", "junit.pom.xml"), "-Dkafka="+KafkaVersion)
}
