package harness

// StreamsApp is the command line of the Kafka Streams application.
func StreamsApp(args ...string) (string, []string, error) {
	java, err := Need("java", "Kafka Streams")
	if err != nil {
		return "", nil, err
	}
	javac, err := Need("javac", "Kafka Streams")
	if err != nil {
		return "", nil, err
	}
	libs, err := jars("streams-"+KafkaVersion, source("java", "streams.pom.xml"), "-Dkafka="+KafkaVersion)
	if err != nil {
		return "", nil, err
	}
	program := source("java", "streams", "StreamsApp.java")
	inputs, err := contents(program)
	if err != nil {
		return "", nil, err
	}
	classes, err := Installed("java-streams", append(inputs, libs), func(dir string) error {
		return Run(dir, javac, "-nowarn", "-encoding", "UTF-8", "-cp", libs+"/*", "-d", dir, program)
	})
	if err != nil {
		return "", nil, err
	}
	argv := append([]string{}, JavaFlags...)
	argv = append(argv, "-Dlog4j2.configurationFile="+source("java", "log4j2.properties"), "-cp", classes+":"+libs+"/*", "StreamsApp")
	return java, append(argv, args...), nil
}
