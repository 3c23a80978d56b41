package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/gregor-broker/gregor/metadata"
	"github.com/twmb/franz-go/pkg/kerr"
)

// Call asks a node, at the address that the metadata has for it as controller or
// as broker, and returns its answer. What is said is this package's own form,
// JSON of which readers ignore what they do not know.
type Call func(ctx context.Context, node int32, message []byte) ([]byte, error)

// operation is a request that only the controller decides on, in the form in
// which another node can send it.
type operation[R any] struct {
	name string
	// args is what the function that made the operation needs to make it again.
	args any
	// elects says that the decision changes what elections depend on.
	elects bool
	// decide makes results and plans on an image; see request.decide.
	decide func(img *metadata.Image, retried bool) ([]R, []metadata.Plan)
	// fault is where a result keeps its error.
	fault func(*R) *error
}

// callMessage and callAnswer are what nodes say to each other.
type callMessage struct {
	Name    string          `json:"name"`
	Args    json.RawMessage `json:"args"`
	Retried bool            `json:"retried,omitempty"`
	// TimeoutMs is how long the caller waits; 0 says nothing about it.
	TimeoutMs int64 `json:"timeoutMs,omitempty"`
}

type callAnswer struct {
	// Code is Kafka's, of an error that concerns the whole request.
	Code    int16           `json:"code,omitempty"`
	Results json.RawMessage `json:"results,omitempty"`
	// Revision is that of an image which shows what was done.
	Revision int64 `json:"revision,omitempty"`
}

// callResult is one result without its error, and that.
type callResult[R any] struct {
	Result R      `json:"result"`
	Code   int16  `json:"code,omitempty"`
	Text   string `json:"text,omitempty"`
}

// remotePause is how long to wait for news of another controller before the
// same one is asked again.
const remotePause = 50 * time.Millisecond

// do has an operation decided, here or by the node that is controller.
//
// An attempt of which the outcome is unknown is told to the next: a node may
// have carried it out and died.
func do[R any](ctx context.Context, c *Controller, op operation[R]) ([]R, error) {
	retried := false
	for {
		results, revision, err := decideHere(ctx, c, op, retried)
		img := c.newest.load()
		if c.opts.Call != nil && errors.Is(err, kerr.NotController) {
			results, revision, err = ask(ctx, c, op, img, retried)
		} else if err != nil {
			return nil, err
		}
		switch {
		case err == nil:
			// What was answered is true here, once the subscribers have applied it.
			if err := c.published.awaitRevision(ctx, revision); err != nil {
				return nil, c.gaveUp()
			}
			return results, nil
		case errors.Is(err, errUnanswered):
			c.log.Debug().Err(err).Int32("controller", img.ControllerID()).Str("request", op.name).Msg("asking again")
			retried = true
		case !errors.Is(err, kerr.NotController):
			return nil, err
		}
		if err := c.awaitOther(ctx, img); err != nil {
			return nil, err
		}
	}
}

// awaitOther waits for another controller than that of img, for a moment.
func (c *Controller) awaitOther(ctx context.Context, img *metadata.Image) error {
	short, cancel := context.WithTimeout(ctx, remotePause)
	defer cancel()
	err := c.newest.await(short, func(now *metadata.Image) bool {
		return now.ControllerID() >= 0 && now.ControllerFence() != img.ControllerFence()
	})
	if err == nil || ctx.Err() == nil && c.ctx.Err() == nil {
		return nil
	}
	return c.gaveUp()
}

// gaveUp says why waiting came to nothing.
func (c *Controller) gaveUp() error {
	if c.ctx.Err() != nil {
		return kerr.BrokerNotAvailable
	}
	return kerr.RequestTimedOut
}

// errUnanswered says that nobody knows whether the controller heard a request.
var errUnanswered = errors.New("controller: no answer")

// callWhile asks the controller of img, for as long as it is that: a process that
// hangs does not even close its connections, and its successor has to be asked.
func (c *Controller) callWhile(ctx context.Context, img *metadata.Image, message []byte) ([]byte, error) {
	asking, cancel := context.WithCancel(ctx)
	replaced := make(chan struct{})
	go func() {
		defer close(replaced)
		_ = c.newest.await(asking, func(now *metadata.Image) bool {
			return now.Revision >= img.Revision && now.ControllerFence() != img.ControllerFence()
		})
		cancel()
	}()
	reply, err := c.opts.Call(asking, img.ControllerID(), message)
	cancel()
	<-replaced
	return reply, err
}

// ask sends an operation to the controller of img.
func ask[R any](ctx context.Context, c *Controller, op operation[R], img *metadata.Image, retried bool) ([]R, int64, error) {
	message, err := encodeCall(ctx, op.name, op.args, retried)
	if err != nil {
		return nil, 0, err
	}
	answer, err := decodeAnswer(c.callWhile(ctx, img, message))
	if err != nil {
		return nil, 0, err
	}
	var coded []callResult[R]
	if err := json.Unmarshal(answer.Results, &coded); err != nil {
		return nil, 0, fmt.Errorf("%w: %w", errUnanswered, err)
	}
	results := make([]R, len(coded))
	for i := range coded {
		results[i] = coded[i].Result
		if coded[i].Code != 0 {
			*op.fault(&results[i]) = remoteError(coded[i].Code, coded[i].Text)
		}
	}
	return results, answer.Revision, nil
}

func encodeCall(ctx context.Context, name string, args any, retried bool) ([]byte, error) {
	encoded, err := json.Marshal(args)
	if err != nil {
		return nil, fmt.Errorf("controller: encode %s: %w", name, err)
	}
	m := callMessage{Name: name, Args: encoded, Retried: retried}
	if deadline, ok := ctx.Deadline(); ok {
		m.TimeoutMs = max(1, time.Until(deadline).Milliseconds())
	}
	message, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("controller: encode %s: %w", name, err)
	}
	return message, nil
}

// decodeAnswer takes what a Call returned.
func decodeAnswer(reply []byte, err error) (callAnswer, error) {
	if err != nil {
		return callAnswer{}, fmt.Errorf("%w: %w", errUnanswered, err)
	}
	var answer callAnswer
	if err := json.Unmarshal(reply, &answer); err != nil {
		return callAnswer{}, fmt.Errorf("%w: %w", errUnanswered, err)
	}
	if answer.Code != 0 {
		return callAnswer{}, kerr.ErrorForCode(answer.Code)
	}
	return answer, nil
}

func remoteError(code int16, text string) error {
	err := kerr.ErrorForCode(code)
	if err == nil || text == "" || text == err.Error() {
		return err
	}
	return fmt.Errorf("%w: %s", err, text)
}

// maxAnswerTime bounds the work on an answer, for callers who do not say how long
// they wait: longer than any of them does.
const maxAnswerTime = time.Minute

// Answer decides on what another node asked for through its Call. The caller
// has made sure that it is a node of this cluster. An answer is given in any
// case, no later than the other node waits for it; it says what went wrong.
func (c *Controller) Answer(ctx context.Context, message []byte) []byte {
	var m callMessage
	answer := callAnswer{Code: kerr.InvalidRequest.Code}
	if err := json.Unmarshal(message, &m); err == nil {
		wait := maxAnswerTime
		if m.TimeoutMs > 0 && m.TimeoutMs < wait.Milliseconds() {
			wait = time.Duration(m.TimeoutMs) * time.Millisecond
		}
		bounded, cancel := context.WithTimeout(ctx, wait)
		answer = c.answer(bounded, m)
		cancel()
	}
	b, err := json.Marshal(answer)
	if err != nil {
		// Results are made of what JSON can say.
		c.log.Error().Err(err).Str("request", m.Name).Msg("encode answer")
		return []byte(fmt.Sprintf(`{"code":%d}`, kerr.UnknownServerError.Code))
	}
	return b
}

func (c *Controller) answer(ctx context.Context, m callMessage) callAnswer {
	switch m.Name {
	case opCreateTopics:
		return answerOp(ctx, c, m, c.createTopics)
	case opDeleteTopics:
		return answerOp(ctx, c, m, c.deleteTopics)
	case opCreatePartitions:
		return answerOp(ctx, c, m, c.createPartitions)
	case opAlterConfigs:
		return answerOp(ctx, c, m, c.alterConfigs)
	case opElectLeaders:
		return answerOp(ctx, c, m, c.electLeaders)
	case opReassign:
		return answerOp(ctx, c, m, c.reassign)
	case opAlterQuotas:
		return answerOp(ctx, c, m, c.alterQuotas)
	case opAlterScram:
		return answerOp(ctx, c, m, c.alterScram)
	case opUpdateFeatures:
		return answerOp(ctx, c, m, c.updateFeatures)
	case opUnregisterBroker:
		return answerOp(ctx, c, m, c.unregisterBroker)
	case opAlterPartition:
		return answerOp(ctx, c, m, c.alterPartition)
	case callApplied:
		return answerCall(ctx, m, c.answerApplied)
	case callLogEnds:
		return answerCall(ctx, m, c.answerLogEnds)
	}
	return callAnswer{Code: kerr.UnsupportedVersion.Code}
}

func answerOp[A, R any](ctx context.Context, c *Controller, m callMessage, make_ func(A) operation[R]) callAnswer {
	var args A
	if err := json.Unmarshal(m.Args, &args); err != nil {
		return callAnswer{Code: kerr.InvalidRequest.Code}
	}
	op := make_(args)
	results, revision, err := decideHere(ctx, c, op, m.Retried)
	if err != nil {
		return callAnswer{Code: codeOf(err)}
	}
	coded := make([]callResult[R], len(results))
	for i := range results {
		r := results[i]
		if fault := op.fault(&r); *fault != nil {
			coded[i].Code, coded[i].Text = codeOf(*fault), (*fault).Error()
			*fault = nil
		}
		coded[i].Result = r
	}
	encoded, err := json.Marshal(coded)
	if err != nil {
		return callAnswer{Code: kerr.UnknownServerError.Code}
	}
	return callAnswer{Results: encoded, Revision: revision}
}

func codeOf(err error) int16 {
	var k *kerr.Error
	if errors.As(err, &k) {
		return k.Code
	}
	return kerr.UnknownServerError.Code
}

// decideHere has an operation decided on this node, and returns the revision of an
// image that shows what was done; NOT_CONTROLLER if it is not the controller.
func decideHere[R any](ctx context.Context, c *Controller, op operation[R], retried bool) ([]R, int64, error) {
	var results []R
	revision, err := c.submit(&request{ctx: ctx, elects: op.elects, retried: retried, decide: func(img *metadata.Image, retried bool) (plans []metadata.Plan, ok bool) {
		results, plans = op.decide(img, retried)
		ok = true
		for i := range results {
			ok = ok && *op.fault(&results[i]) == nil
		}
		return plans, ok
	}})
	if err != nil {
		return nil, 0, err
	}
	return results, revision, nil
}
