package handler

import (
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestAnswersAreBounded asks for the same thing many times: the answer has as
// much of it as there is room for, and says of the others that there is none.
func TestAnswersAreBounded(t *testing.T) {
	const n, limit = 1000, 20_000
	b := newTestBroker(t)
	b.create(t, newTopic("adm-grp", 10, 1))
	name := strings.Repeat("long", 50)
	names := make([]string, n)
	for i := range names {
		names[i] = name
	}
	offsets := make([]int32, 10)
	for i := range offsets {
		offsets[i] = int32(i)
	}
	b.play(t, commit(8, name, "", -1, offsets...))

	configs := kmsg.NewPtrDescribeConfigsRequest()
	configs.Version, configs.IncludeDocumentation = 4, true
	fetch := kmsg.NewPtrOffsetFetchRequest()
	fetch.Version = 9
	producers := kmsg.NewPtrDescribeProducersRequest()
	partitions := kmsg.NewDescribeProducersRequestTopic()
	partitions.Topic = "nowhere"
	for range n {
		r := kmsg.NewDescribeConfigsRequestResource()
		r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, "adm-grp"
		configs.Resources = append(configs.Resources, r)
		g := kmsg.NewOffsetFetchRequestGroup()
		g.Group = name
		fetch.Groups = append(fetch.Groups, g)
		partitions.Partitions = append(partitions.Partitions, 0)
	}
	producers.Topics = append(producers.Topics, partitions)
	transactions := kmsg.NewPtrDescribeTransactionsRequest()
	transactions.TransactionalIDs = names

	b.mostAnswered = limit
	for _, test := range []struct {
		req   kmsg.Request
		codes func(kmsg.Response) []int16
		least int // answered as ever
	}{
		{configs, func(r kmsg.Response) []int16 {
			return codes(r.(*kmsg.DescribeConfigsResponse).Resources, func(e kmsg.DescribeConfigsResponseResource) int16 { return e.ErrorCode })
		}, 1},
		{fetch, func(r kmsg.Response) []int16 {
			return codes(r.(*kmsg.OffsetFetchResponse).Groups, func(e kmsg.OffsetFetchResponseGroup) int16 { return e.ErrorCode })
		}, 10},
		{describeGroup(5, names...), func(r kmsg.Response) []int16 {
			return codes(r.(*kmsg.DescribeGroupsResponse).Groups, func(e kmsg.DescribeGroupsResponseGroup) int16 { return e.ErrorCode })
		}, 10},
		{describeConsumers(1, names...), func(r kmsg.Response) []int16 {
			return codes(r.(*kmsg.ConsumerGroupDescribeResponse).Groups, func(e kmsg.ConsumerGroupDescribeResponseGroup) int16 { return e.ErrorCode })
		}, 10},
		{producers, func(r kmsg.Response) []int16 {
			return codes(r.(*kmsg.DescribeProducersResponse).Topics[0].Partitions, func(e kmsg.DescribeProducersResponseTopicPartition) int16 { return e.ErrorCode })
		}, 10},
		{transactions, func(r kmsg.Response) []int16 {
			return codes(r.(*kmsg.DescribeTransactionsResponse).TransactionStates, func(e kmsg.DescribeTransactionsResponseTransactionState) int16 { return e.ErrorCode })
		}, 10},
	} {
		what := kmsg.NameForKey(test.req.Key())
		got := test.codes(b.play(t, test.req))
		if len(got) != n {
			t.Errorf("%s: %d answers", what, len(got))
			continue
		}
		answered := 0
		for answered < n && got[answered] == got[0] {
			answered++
		}
		if got[0] == errNoRoom.Code || answered < test.least || answered > n/2 {
			t.Errorf("%s: %d are answered with %d", what, answered, got[0])
		}
		for _, code := range got[answered:] {
			if code != errNoRoom.Code {
				t.Fatalf("%s: code %d after there was no room", what, code)
			}
		}
	}
}

func codes[T any](of []T, code func(T) int16) []int16 {
	all := make([]int16, len(of))
	for i := range of {
		all[i] = code(of[i])
	}
	return all
}
