package demo

import (
	"embed"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
)

//go:embed all:project
var projectFiles embed.FS

// Project gives the demo's project as a user would have it: definitions/*.yaml and, beside them,
// the model's files.
func Project() (fs.FS, error) {
	sub, err := fs.Sub(projectFiles, "project")
	if err != nil {
		return nil, fmt.Errorf("the demo's project: %w", err)
	}
	return sub, nil
}

// Config gives the text of a freshet.yaml that runs the demo in dir, with Project copied there.
// source is the database's URL as the file shall hold it: best file:PATH or env:NAME, as URLs
// contain passwords.
func Config(dir, source string) string {
	q := func(parts ...string) string { return strconv.Quote(filepath.Join(append([]string{dir}, parts...)...)) }
	return `# The flights demo. Kafka and NATS are embedded, as they are left out.
name: flights
data_dir: ` + q("data") + `
source:
  postgres: {url: ` + strconv.Quote(source) + `, slot: freshet, publication: freshet}
  clock: public.simulation_clock.now      # log time is the simulation's
  timezone: UTC
storage: {hot: ` + strconv.Quote("file://"+filepath.ToSlash(filepath.Join(dir, "tables"))) + `}
definitions: ` + q("definitions") + `
`
}
