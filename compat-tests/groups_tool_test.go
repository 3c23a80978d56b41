package compat

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gregor-broker/gregor/compat-tests/harness"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const groupCommand = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"

// liveGroup is a group with one member, which has consumed all of a topic.
func liveGroup(t *testing.T, b *harness.Broker, topic, group string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(b.Addr), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit(), kgo.ClientID("live"))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	consumeAndCommit(t, cl, 20)
	return cl // it may go on with its heartbeats while nobody polls
}

// consumeAndCommit lets a member consume so many records and commit once.
func consumeAndCommit(t *testing.T, cl *kgo.Client, records int) {
	t.Helper()
	for n := 0; n < records; {
		fs := cl.PollFetches(t.Context())
		if err := fs.Err(); err != nil {
			t.Fatal(err)
		}
		n += fs.NumRecords()
	}
	if err := cl.CommitUncommittedOffsets(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestConsumerGroupCommand: everything that Kafka's tool for consumer groups
// can do, with groups of both protocols, with members and without.
func TestConsumerGroupCommand(t *testing.T) {
	needAll(t)
	onAll(t, func(t *testing.T, b *harness.Broker) {
		topic := createTopic(t, b, 2)
		// Ten records in each partition, an hour apart, the last one now.
		begin := time.Now().Add(-9 * time.Hour).Truncate(time.Millisecond)
		var recs []harness.Record
		for i := range 20 {
			recs = append(recs, harness.Record{Topic: topic, Partition: int32(i % 2), Timestamp: begin.Add(time.Duration(i/2) * time.Hour).UnixMilli(), Value: []byte("v")})
		}
		if _, err := harness.Produce(franz(t, b), t.TempDir(), recs, "-"); err != nil {
			t.Fatal(err)
		}
		suffix := topicName(t)
		classic, consumer, idle := "classic-"+suffix, "consumer-"+suffix, "idle-"+suffix
		liveGroup(t, b, topic, classic, kgo.Balancers(kgo.RangeBalancer()))
		liveGroup(t, b, topic, consumer, kgo.ServerSideBalancer(), kgo.Balancers(kgo.RangeBalancer()))
		var offsets kadm.Offsets
		offsets.AddOffset(topic, 0, 4, -1)
		offsets.AddOffset(topic, 1, 6, -1)
		if err := franz(t, b).Admin().CommitAllOffsets(t.Context(), idle, offsets); err != nil {
			t.Fatal(err)
		}
		plan := tempFile(t, "offsets.csv", fmt.Sprintf("%s,0,1\n%s,1,2\n", topic, topic))
		noon := begin.Add(4*time.Hour + 30*time.Minute).UTC().Format("2006-01-02T15:04:05.000")

		// A table: its lines, whose columns are as wide as they need to be.
		table := func(lines ...string) string {
			for i, line := range lines {
				lines[i] = strings.ReplaceAll(line, " ", " +")
			}
			return "(^|\n)" + strings.Join(lines, " *\n") + " *\n"
		}
		dynamic, uuid := "live-[0-9a-f-]{36}", "[A-Za-z0-9_+/=-]+"
		step := func(name string, args []string, want string) toolStep {
			return toolStep{name: name, class: groupCommand, args: args, want: want}
		}
		// Lines in no particular order: the tool's depends on the names.
		list := func(name string, args []string, lines ...string) toolStep {
			s := step(name, args, "")
			for _, line := range lines {
				s.also = append(s.also, table(line))
			}
			return s
		}
		describe := func(name, group string, args []string, lines ...string) toolStep {
			return list("describe "+name, append([]string{"--describe", "--group", group}, args...), lines...)
		}
		reset := func(name, to0, to1 string, args ...string) toolStep {
			lines := []string{"GROUP TOPIC PARTITION NEW-OFFSET"}
			if to0 != "" {
				lines = append(lines, idle+" "+topic+" 0 "+to0)
			}
			return list("reset "+name, append([]string{"--reset-offsets", "--group", idle}, args...), append(lines, idle+" "+topic+" 1 "+to1)...)
		}
		no := func(name, group string, args ...string) toolStep {
			return step(name, append(args, "--group", group), "Error: Assignments can only be reset if the group '"+group+"' is inactive, but the current state is Stable.")
		}
		const offsetColumns = "GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG CONSUMER-ID HOST CLIENT-ID"
		const memberColumns = "GROUP CONSUMER-ID HOST CLIENT-ID #PARTITIONS"
		const stateColumns = "GROUP COORDINATOR \\(ID\\) ASSIGNMENT-STRATEGY STATE #MEMBERS"
		at := regexp.QuoteMeta(b.Addr) + " \\(1\\)"
		for _, s := range []toolStep{
			list("list", []string{"--list"}, classic, consumer, idle),
			list("list states", []string{"--list", "--state"}, "GROUP STATE", classic+" Stable", consumer+" Stable", idle+" Empty"),
			list("list the stable ones", []string{"--list", "--state", "stable"}, classic+" Stable", consumer+" Stable"),
			list("list the empty ones", []string{"--list", "--state", "empty"}, idle+" Empty"),
			list("list types", []string{"--list", "--type"}, "GROUP TYPE", classic+" Classic", consumer+" Consumer", idle+" Classic"),
			list("list one type", []string{"--list", "--type", "consumer"}, consumer+" Consumer"),
			list("list type and state", []string{"--list", "--type", "classic", "--state", "empty"}, "GROUP TYPE STATE", idle+" Classic Empty"),

			describe("classic", classic, nil, offsetColumns, classic+" "+topic+" 0 10 10 0 "+dynamic+" /127.0.0.1 live", classic+" "+topic+" 1 10 10 0 "+dynamic+" /127.0.0.1 live"),
			describe("consumer", consumer, nil, offsetColumns, consumer+" "+topic+" 0 10 10 0 "+uuid+" /127.0.0.1 live", consumer+" "+topic+" 1 10 10 0 "+uuid+" /127.0.0.1 live"),
			describe("idle", idle, []string{"--offsets"}, offsetColumns, idle+" "+topic+" 0 4 10 6 - - -", idle+" "+topic+" 1 6 10 4 - - -"),
			describe("verbosely", classic, []string{"--offsets", "--verbose"}, "GROUP TOPIC PARTITION LEADER-EPOCH CURRENT-OFFSET LOG-END-OFFSET LAG CONSUMER-ID HOST CLIENT-ID", classic+" "+topic+" 0 0 10 10 0 "+dynamic+" /127.0.0.1 live"),
			describe("members of classic", classic, []string{"--members"}, memberColumns, classic+" "+dynamic+" /127.0.0.1 live 2"),
			describe("members of consumer", consumer, []string{"--members"}, memberColumns, consumer+" "+uuid+" /127.0.0.1 live 2"),
			describe("members of classic verbosely", classic, []string{"--members", "--verbose"}, memberColumns+" CURRENT-EPOCH CURRENT-ASSIGNMENT TARGET-EPOCH TARGET-ASSIGNMENT", classic+" "+dynamic+" /127.0.0.1 live 2 - "+topic+":0,1 - -"),
			describe("members of consumer verbosely", consumer, []string{"--members", "--verbose"}, memberColumns+" CURRENT-EPOCH CURRENT-ASSIGNMENT TARGET-EPOCH TARGET-ASSIGNMENT", consumer+" "+uuid+" /127.0.0.1 live 2 2 "+topic+":0,1 2 "+topic+":0,1"),
			describe("state of classic", classic, []string{"--state"}, stateColumns, classic+" "+at+" range Stable 1"),
			describe("state of consumer", consumer, []string{"--state"}, stateColumns, consumer+" "+at+" range Stable 1"),
			describe("state of classic verbosely", classic, []string{"--state", "--verbose"}, "GROUP COORDINATOR \\(ID\\) ASSIGNMENT-STRATEGY STATE GROUP-EPOCH TARGET-ASSIGNMENT-EPOCH #MEMBERS", classic+" "+at+" range Stable - - 1"),
			describe("state of consumer verbosely", consumer, []string{"--state", "--verbose"}, "GROUP COORDINATOR \\(ID\\) ASSIGNMENT-STRATEGY STATE GROUP-EPOCH TARGET-ASSIGNMENT-EPOCH #MEMBERS", consumer+" "+at+" range Stable 2 2 1"),
			describe("state of idle", idle, []string{"--state"}, "Consumer group '"+idle+"' has no active members\\.", stateColumns, idle+" "+at+" - Empty 0"),
			list("describe all", []string{"--describe", "--all-groups", "--state"}, classic+" "+at+" range Stable 1", consumer+" "+at+" range Stable 1", idle+" "+at+" - Empty 0"),
			step("describe what is not there", []string{"--describe", "--group", "no-" + suffix}, "GroupIdNotFoundException: Group no-"+suffix+" not found"),

			reset("to earliest", "0", "0", "--topic", topic, "--to-earliest", "--dry-run"),
			reset("to latest", "10", "10", "--topic", topic, "--to-latest", "--dry-run"),
			reset("to current", "4", "6", "--all-topics", "--to-current", "--dry-run"),
			reset("to offset", "3", "3", "--topic", topic+":0,1", "--to-offset", "3", "--dry-run"),
			reset("beyond the end", "10", "10", "--topic", topic, "--to-offset", "99", "--dry-run"),
			reset("by shift back", "1", "3", "--topic", topic, "--shift-by", "-3", "--dry-run"),
			reset("by shift ahead", "6", "8", "--topic", topic, "--shift-by", "2", "--dry-run"),
			reset("to a time", "5", "5", "--topic", topic, "--to-datetime", noon, "--dry-run"),
			reset("by duration", "7", "7", "--topic", topic, "--by-duration", "PT2H30M", "--dry-run"),
			reset("from a file", "1", "2", "--from-file", plan, "--dry-run"),
			describe("after trials", idle, nil, offsetColumns, idle+" "+topic+" 0 4 10 6 - - -", idle+" "+topic+" 1 6 10 4 - - -"),
			reset("executed", "2", "2", "--topic", topic, "--to-offset", "2", "--execute"),
			reset("of one partition", "", "9", "--topic", topic+":1", "--to-offset", "9", "--execute"),
			describe("after the reset", idle, nil, offsetColumns, idle+" "+topic+" 0 2 10 8 - - -", idle+" "+topic+" 1 9 10 1 - - -"),
			list("export", []string{"--reset-offsets", "--group", idle, "--topic", topic, "--to-current", "--dry-run", "--export"}, `"`+topic+`",0,2`, `"`+topic+`",1,9`),
			list("reset of a new group", []string{"--reset-offsets", "--group", "new-" + suffix, "--topic", topic, "--to-latest", "--execute"}, "new-"+suffix+" "+topic+" 0 10", "new-"+suffix+" "+topic+" 1 10"),
			no("reset with members", classic, "--reset-offsets", "--topic", topic, "--to-earliest", "--execute"),
			no("reset with members of the new protocol", consumer, "--reset-offsets", "--topic", topic, "--to-earliest", "--execute"),

			step("delete offsets", []string{"--delete-offsets", "--group", idle, "--topic", topic + ":0"}, "Request succeeded for deleting offsets from group "+idle+".*"+topic+" +0 +Successful"),
			step("delete offsets subscribed to", []string{"--delete-offsets", "--group", classic, "--topic", topic}, topic+" +1 +Error: .*GroupSubscribedToTopicException"),
			step("delete with members", []string{"--delete", "--group", classic}, "Group '"+classic+"' could not be deleted due to: .*GroupNotEmptyException"),
			step("delete with members of the new protocol", []string{"--delete", "--group", consumer}, "Group '"+consumer+"' could not be deleted due to: .*GroupNotEmptyException"),
			step("delete two", []string{"--delete", "--group", idle, "--group", "new-" + suffix}, "Deletion of requested consumer groups \\('.*', '.*'\\) was successful"),
			step("delete what is not there", []string{"--delete", "--group", idle}, "Group '"+idle+"' could not be deleted due to: .*GroupIdNotFoundException"),
		} {
			t.Run(s.name, func(t *testing.T) { s.run(t, b) })
		}
	})
}
