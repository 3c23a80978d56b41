package protocol

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestCapturedFrames reads what clients and Apache Kafka 4.3.1 said to each
// other, frames without their size: testdata/frames/<client>/<key>-v<version>.
// Each must come out of its decoder as it went in.
func TestCapturedFrames(t *testing.T) {
	requests, err := filepath.Glob(filepath.Join("testdata", "frames", "*", "*.request"))
	if err != nil || len(requests) < 50 {
		t.Fatalf("%d captured requests, %v", len(requests), err)
	}
	for _, file := range requests {
		frame, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		h, err := checkRequestFrame(file, frame)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		response, err := os.ReadFile(strings.TrimSuffix(file, "request") + "response")
		if os.IsNotExist(err) {
			continue // too large to keep
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := checkResponseFrame(h, response); err != nil {
			t.Errorf("response to %s: %v", file, err)
		}
	}
}

func checkRequestFrame(file string, frame []byte) (Header, error) {
	h, body, err := ReadHeader(frame)
	if err != nil {
		return h, err
	}
	if name := fmt.Sprintf("%02d-v%d.request", h.Key, h.Version); name != filepath.Base(file) {
		return h, fmt.Errorf("header says %s", name)
	}
	r, err := Decode(h.Key, h.Version, body)
	if futureApiVersions(h) {
		if Code(err) != kerr.UnsupportedVersion.Code {
			return h, fmt.Errorf("decodes, or not: %w", err)
		}
		return h, nil
	}
	if err != nil {
		return h, err
	}
	if again := AppendRequest(nil, h, r)[4:]; !bytes.Equal(again, frame) {
		return h, fmt.Errorf("encodes to\n% x, was\n% x", again, frame)
	}
	return h, nil
}

// futureApiVersions: franz-go begins with a version that Kafka 4.3 does not
// know, and is answered in version 0.
func futureApiVersions(h Header) bool { return h.Key == 18 && h.Version > 4 }

func checkResponseFrame(h Header, frame []byte) error {
	r := kmsg.ResponseForKey(h.Key)
	r.SetVersion(h.Version)
	if futureApiVersions(h) {
		r.SetVersion(0)
	}
	id, err := ReadResponse(frame, r)
	if err != nil {
		return err
	}
	if again := AppendResponse(nil, id, r)[4:]; !bytes.Equal(again, frame) {
		return fmt.Errorf("encodes to\n% x, was\n% x", again, frame)
	}
	if v, ok := r.(*kmsg.ApiVersionsResponse); ok && futureApiVersions(h) && v.ErrorCode != kerr.UnsupportedVersion.Code {
		return fmt.Errorf("error code %d", v.ErrorCode)
	}
	return nil
}
