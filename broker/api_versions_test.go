package broker

import (
	"bytes"
	"encoding/hex"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestUnsupportedApiVersions compares with the bytes that Apache Kafka 4.3.1
// answered: version 0, UNSUPPORTED_VERSION, and the one row of ApiVersions.
func TestUnsupportedApiVersions(t *testing.T) {
	b := startBroker(t, nil)
	want, err := hex.DecodeString("00000009" + "0023" + "00000001" + "0012" + "0000" + "0004")
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []int16{5, 99, 32767, -1} {
		c := b.dial()
		c.send(rawHeader(18, version, 0, 2, 'a', 2, 'b', 0))
		got, err := c.receive()
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("version %d: % x, %v; want % x", version, got, err, want)
		}
		c.ask(apiVersionsRequest(0)) // the client asks again
	}
}

func TestApiVersions(t *testing.T) {
	b := startBroker(t, nil)
	c := b.dial()
	for v := int16(0); v <= 4; v++ {
		r := c.ask(apiVersionsRequest(v)).(*kmsg.ApiVersionsResponse)
		if r.ErrorCode != 0 {
			t.Fatal(kerr.ErrorForCode(r.ErrorCode))
		}
		for i, k := range r.ApiKeys {
			if i > 0 && r.ApiKeys[i-1].ApiKey >= k.ApiKey {
				t.Errorf("v%d: key %d follows %d", v, k.ApiKey, r.ApiKeys[i-1].ApiKey)
			}
			switch k.ApiKey {
			case 0: // librdkafka takes the absence of 0 for a broker without codecs
				if k.MinVersion != 0 || k.MaxVersion != 13 {
					t.Errorf("Produce %d-%d", k.MinVersion, k.MaxVersion)
				}
			case 1:
				if k.MinVersion != 4 || k.MaxVersion != 18 {
					t.Errorf("Fetch %d-%d", k.MinVersion, k.MaxVersion)
				}
			}
		}
		if v < 3 {
			continue
		}
		if len(r.FinalizedFeatures) == 0 || r.FinalizedFeatures[0].MaxVersionLevel != 30 || r.FinalizedFeaturesEpoch <= 0 {
			t.Errorf("v%d: finalized %+v at %d", v, r.FinalizedFeatures, r.FinalizedFeaturesEpoch)
		}
		for _, f := range r.SupportedFeatures {
			if v == 3 && f.MinVersion == 0 {
				t.Errorf("v3 tells of %s, which starts at 0", f.Name)
			}
		}
	}
}

// TestSoftwareNames compares with the bytes that Apache Kafka 4.3.1 answered to
// names it does not take.
func TestSoftwareNames(t *testing.T) {
	b := startBroker(t, nil)
	want := []byte{0, 42, 1, 0, 0, 0, 0, 0}
	for _, name := range []string{"bad name!", "", "-x"} {
		c := b.dial()
		r := apiVersionsRequest(3)
		r.ClientSoftwareName = name
		c.send(c.frame(r))
		got, err := c.receive()
		if err != nil || !bytes.Equal(got[4:], want) {
			t.Errorf("%q: % x, %v; want % x", name, got, err, want)
		}
	}
}
