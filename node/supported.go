package node

import (
	"fmt"
	"strings"

	"github.com/gregor-broker/gregor/config"
)

// checkSecurity refuses settings that promise a protection which is not there:
// a broker that lets everybody in although its configuration names an
// authorizer would be worse than one that does not start.
func checkSecurity(v *config.Values) error {
	if class := v.String("authorizer.class.name"); class != "" {
		return at(v, "authorizer.class.name", fmt.Errorf("%s: gregor has no access control; without this key everybody who can connect may do everything", class))
	}
	return nil
}

// upper is the set of the names in upper case, which is how listeners are named.
func upper(names []string) map[string]bool {
	out := make(map[string]bool, len(names))
	for _, n := range names {
		out[strings.ToUpper(strings.TrimSpace(n))] = true
	}
	return out
}
