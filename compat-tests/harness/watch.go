package harness

import (
	"os/exec"
	"path/filepath"
)

// Kminion is the path of kminion, which whoever has it puts into the PATH: no
// registry that the rest is installed from serves it.
func Kminion() (string, error) {
	path, err := exec.LookPath("kminion")
	if err != nil {
		return "", &MissingError{What: "kminion", Foreign: true, Reason: "not in the PATH (github.com/redpanda-data/kminion)"}
	}
	return path, nil
}

// Burrow is the path of the Burrow in the PATH, else of Debian's, which is
// unpacked rather than installed, so that nobody has to be root and no service
// starts.
func Burrow() (string, error) {
	for _, name := range []string{"burrow", "Burrow"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	dir, err := Installed("burrow", nil, func(dir string) error {
		for _, program := range []string{"apt-get", "dpkg-deb"} {
			if _, err := Need(program, "Burrow"); err != nil {
				return err
			}
		}
		if err := Run(dir, "apt-get", "download", "-q", "burrow"); err != nil {
			return &MissingError{What: "Burrow", Reason: err.Error()}
		}
		packages, err := filepath.Glob(filepath.Join(dir, "*.deb"))
		if err != nil || len(packages) != 1 {
			return &MissingError{What: "Burrow", Reason: "apt-get downloaded no package"}
		}
		return Run(dir, "dpkg-deb", "--extract", packages[0], dir)
	})
	return filepath.Join(dir, "usr", "bin", "Burrow"), err
}
