package metadata

// ConfigRules is what the decisions need to know of config keys, given by
// whoever has the tables. A nil function permits everything.
type ConfigRules struct {
	// Validate checks the configs that a resource would have; changed names
	// the keys that the request set. An error's text goes to the client, with
	// INVALID_CONFIG if the error holds no *kerr.Error.
	Validate func(r ConfigResource, configs map[string]string, changed []string) error
	// IsList says whether APPEND and SUBTRACT apply to a key.
	IsList func(t ConfigType, key string) bool
	// Default returns the value of a key that was not set: what APPEND and
	// SUBTRACT begin with.
	Default func(t ConfigType, key string) string
}
