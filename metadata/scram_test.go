package metadata_test

import (
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"testing"

	"github.com/gregor-broker/gregor/metadata"
)

// TestScramKeys: of the password in RFC 7677's example the two keys are kept
// that every other implementation derives, and nothing of the password itself.
func TestScramKeys(t *testing.T) {
	salt, err := base64.StdEncoding.DecodeString("W22ZaJ0SNY7soEsUEjb6gQ==")
	if err != nil {
		t.Fatal(err)
	}
	salted, err := pbkdf2.Key(sha256.New, "pencil", salt, 4096, sha256.Size)
	if err != nil {
		t.Fatal(err)
	}
	results, plans := metadata.AlterScram(metadata.Empty(), nil, []metadata.ScramUpsertion{{
		ScramID: metadata.ScramID{User: "us/er", Mechanism: metadata.ScramSHA256}, Iterations: 4096, Salt: salt, SaltedPassword: salted,
	}})
	if len(results) != 1 || results[0].Err != nil || len(plans) != 1 {
		t.Fatal(results, plans)
	}
	var kept map[string]any
	if err := json.Unmarshal(plans[0].Commit[0].Value, &kept); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{
		"salt": "W22ZaJ0SNY7soEsUEjb6gQ==", "iterations": 4096.0, "v": 1.0,
		"storedKey": "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=",
		"serverKey": "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
	} {
		if kept[key] != want {
			t.Errorf("%s is %v, want %v", key, kept[key], want)
		}
		delete(kept, key)
	}
	if len(kept) > 0 {
		t.Errorf("kept beside: %v", kept)
	}
	img, err := metadata.Empty().With(plans[0].Commit)
	if err != nil {
		t.Fatal(err)
	}
	if ids := img.Scram().IDs(); len(ids) != 1 || ids[0].User != "us/er" {
		t.Errorf("the image has %v", ids)
	}
}
