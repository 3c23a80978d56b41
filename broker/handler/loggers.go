package handler

import (
	"fmt"
	"strings"

	"github.com/gregor-broker/gregor/config"
	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// rootLogger is the one logger that there is.
const rootLogger = "root"

// LogLevel is the lowest level that is logged, changeable while the broker
// runs (KIP-412).
type LogLevel interface {
	Level() zerolog.Level
	SetLevel(zerolog.Level)
}

// log4jLevels are the levels by Kafka's names.
var log4jLevels = []struct {
	name  string
	level zerolog.Level
}{
	{"TRACE", zerolog.TraceLevel},
	{"DEBUG", zerolog.DebugLevel},
	{"INFO", zerolog.InfoLevel},
	{"WARN", zerolog.WarnLevel},
	{"ERROR", zerolog.ErrorLevel},
	{"FATAL", zerolog.FatalLevel},
	{"OFF", zerolog.Disabled},
}

func (b *Broker) describeLoggers() []config.Entry {
	level := b.Log.GetLevel()
	if b.LogLevel != nil {
		level = b.LogLevel.Level()
	}
	name := "OFF"
	for _, l := range log4jLevels {
		if l.level == level {
			name = l.name
		}
	}
	return []config.Entry{{
		Name: rootLogger, Value: &name, Source: config.DynamicBrokerLogger, Type: config.TypeString,
		Synonyms: []config.Synonym{{Name: rootLogger, Value: &name, Source: config.DynamicBrokerLogger}},
	}}
}

// alterLoggers changes levels of this broker's loggers. They are not kept: the
// next start begins with log.level.
func (b *Broker) alterLoggers(res *kmsg.IncrementalAlterConfigsRequestResource, validateOnly bool) (*kerr.Error, string) {
	if problem := b.otherBroker(res.ResourceName, "Unexpected node id. Expected %d, but received %d"); problem != "" {
		return kerr.InvalidRequest, strings.Replace(problem, "Broker id must", "Node id must", 1)
	}
	if b.LogLevel == nil {
		return kerr.InvalidRequest, "The log level of this broker cannot be changed at run time."
	}
	level := b.LogLevel.Level()
	for i := range res.Configs {
		c := &res.Configs[i]
		switch c.Op {
		case kmsg.IncrementalAlterConfigOpSet:
		case kmsg.IncrementalAlterConfigOpDelete:
			if c.Name == rootLogger {
				return kerr.InvalidRequest, "Removing the log level of the root logger is not allowed"
			}
		default:
			return kerr.InvalidRequest, c.Op.String() + " operation is not allowed for the BROKER_LOGGER resource"
		}
		if c.Name != rootLogger {
			return kerr.InvalidConfig, fmt.Sprintf("Logger %s does not exist!", c.Name)
		}
		known := false
		for _, l := range log4jLevels {
			if c.Value != nil && strings.EqualFold(*c.Value, l.name) {
				level, known = l.level, true
			}
		}
		if !known {
			value := "null"
			if c.Value != nil {
				value = *c.Value
			}
			return kerr.InvalidConfig, fmt.Sprintf("Cannot set the log level of %s to %s as it is not a supported log level. Valid log levels are DEBUG, ERROR, FATAL, INFO, OFF, TRACE, WARN", c.Name, value)
		}
	}
	if !validateOnly {
		b.LogLevel.SetLevel(level)
	}
	return nil, ""
}
