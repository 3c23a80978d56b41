package storage

import (
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
)

// CorruptError says that a file does not hold what it should. Recovery rebuilds such a file or cuts it off; only when
// neither is possible does the error come out.
type CorruptError struct {
	File   string
	Pos    int64
	Reason string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("corrupt %s at %d: %s", e.File, e.Pos, e.Reason)
}

// errGone says that a segment was deleted or replaced between finding it and opening it: look again.
var errGone = errors.New("storage: segment is gone")

// clientError is a Kafka error with an explanation for the client and the log.
type clientError struct {
	code *kerr.Error
	msg  string
}

func (e *clientError) Error() string { return e.code.Message + ": " + e.msg }
func (e *clientError) Unwrap() error { return e.code }

func clientErrorf(code *kerr.Error, format string, args ...any) error {
	return &clientError{code: code, msg: fmt.Sprintf(format, args...)}
}

// storageError is what a client gets for an error of the disk.
type storageError struct {
	dir   string
	cause error
}

func (e *storageError) Error() string {
	return fmt.Sprintf("log directory %s is offline: %v", e.dir, e.cause)
}

func (e *storageError) Unwrap() []error { return []error{kerr.KafkaStorageError, e.cause} }
