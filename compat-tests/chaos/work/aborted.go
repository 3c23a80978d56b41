package work

import (
	"strings"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kgo"
)

// abortLog is the logger of a client of franz-go, which hears one message: that
// the client aborts a transaction which it believes to be empty, also where it
// was asked to commit it, and answered nil. The belief may be wrong: in the first
// transaction of a client, what waited for a topic's partitions is sent before
// they are stored (v1.22.2, storePartitionsUpdate), so that the end of the
// transaction, where the answer to the records comes first, finds none of them.
type abortLog struct{ said atomic.Bool }

// abortMessage begins the message.
const abortMessage = "no produce succeeded in this transaction but produces were attempted; issuing an abort"

func (*abortLog) Level() kgo.LogLevel { return kgo.LogLevelInfo }

func (l *abortLog) Log(_ kgo.LogLevel, message string, _ ...any) {
	if strings.HasPrefix(message, abortMessage) {
		l.said.Store(true)
	}
}

// took tells whether it was said since the last call.
func (l *abortLog) took() bool { return l.said.Swap(false) }
