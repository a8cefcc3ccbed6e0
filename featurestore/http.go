package featurestore

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/freshet-io/freshet/internal/fault"
)

// The error codes of Confluent's schema registry that read calls answer with.
const (
	codeNoSubject  = 40401
	codeNoVersion  = 40402
	codeNoSchema   = 40403
	codeBadVersion = 42202
	codeBackend    = 50001
)

// HTTP answers
//
//	GET /livez                                  200 while the process answers
//	GET /readyz                                 200 when every partition has folded its snapshot, else 503 and which have not
//	GET /metrics                                Prometheus' text
//	GET /schemas/types
//	GET /schemas/ids/{id}                       as Confluent's schema registry does, from the registry topic
//	GET /schemas/ids/{id}/schema
//	GET /schemas/ids/{id}/versions
//	GET /subjects
//	GET /subjects/{subject}/versions
//	GET /subjects/{subject}/versions/{version}  a number from 1, or latest
//	GET /subjects/{subject}/versions/{version}/schema
//
// The schema registry's calls are there when the server has a Registry. Nothing can be written.
func (s *Server) HTTP() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.o.Metrics, promhttp.HandlerOpts{}))
	if s.o.Registry == nil {
		return mux
	}
	for path, answer := range map[string]func(r *http.Request) (any, *registryError){
		"/schemas/types":                                func(*http.Request) (any, *registryError) { return []string{"AVRO"}, nil },
		"/schemas/ids/{id}":                             s.schemaByID,
		"/schemas/ids/{id}/schema":                      s.schemaText,
		"/schemas/ids/{id}/versions":                    s.schemaVersions,
		"/subjects":                                     s.subjects,
		"/subjects/{subject}/versions":                  s.versions,
		"/subjects/{subject}/versions/{version}":        s.version,
		"/subjects/{subject}/versions/{version}/schema": s.versionText,
	} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			out, failed := answer(r)
			if failed != nil {
				reply(w, failed.status, failed)
				return
			}
			reply(w, http.StatusOK, out)
		})
	}
	return mux
}

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	var missing bytes.Buffer
	for _, what := range s.o.Node.Pending() {
		fmt.Fprintln(&missing, what)
	}
	for _, g := range s.o.Node.Catalog().Groups {
		for _, p := range s.o.Node.Partitions(g.Name) {
			if m := p.Meta(); !m.Done {
				fmt.Fprintf(&missing, "partition %s/%d has not folded its snapshot: %d changes so far\n", g.Name, p.Number(), m.Stats.Changes)
			}
		}
	}
	if missing.Len() > 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = missing.WriteTo(w) // a client that is gone has no use for it
		return
	}
	fmt.Fprintln(w, "ok")
}

// registryError is an error as Confluent's schema registry writes it.
type registryError struct {
	status  int
	Code    int    `json:"error_code"`
	Message string `json:"message"`
}

func refused(code int, message string, args ...any) *registryError {
	return &registryError{code / 100, code, fmt.Sprintf(message, args...)}
}

func reply(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/vnd.schemaregistry.v1+json")
	w.WriteHeader(code)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	_ = e.Encode(body) // a client that is gone has no use for it
}

// subjectVersion is the answer about one version of a subject.
type subjectVersion struct {
	Subject string `json:"subject"`
	Version int    `json:"version"`
	ID      uint32 `json:"id,omitempty"`
	Schema  string `json:"schema,omitempty"`
}

// find gives subject and schema of the id in the path.
func (s *Server) find(r *http.Request) (id uint32, subject, schema string, failed *registryError) {
	n, err := strconv.ParseUint(r.PathValue("id"), 10, 31)
	if err != nil {
		return 0, "", "", &registryError{http.StatusNotFound, http.StatusNotFound, "HTTP 404 Not Found"}
	}
	subject, schema, err = s.o.Registry.Schema(r.Context(), uint32(n))
	if fault.ClassOf(err) == fault.NotFound {
		return 0, "", "", refused(codeNoSchema, "Schema %d not found", n)
	}
	if err != nil {
		return 0, "", "", backend(err)
	}
	return uint32(n), subject, schema, nil
}

func backend(err error) *registryError {
	return refused(codeBackend, "Error in the backend data store: %s", err)
}

func (s *Server) schemaByID(r *http.Request) (any, *registryError) {
	_, _, schema, failed := s.find(r)
	return map[string]string{"schema": schema}, failed
}

func (s *Server) schemaText(r *http.Request) (any, *registryError) {
	_, _, schema, failed := s.find(r)
	return json.RawMessage(schema), failed
}

func (s *Server) schemaVersions(r *http.Request) (any, *registryError) {
	id, subject, _, failed := s.find(r)
	if failed != nil {
		return nil, failed
	}
	out := []subjectVersion{}
	for i, other := range s.o.Registry.Versions(subject) {
		if other == id {
			out = append(out, subjectVersion{Subject: subject, Version: i + 1})
		}
	}
	return out, nil
}

func (s *Server) subjects(r *http.Request) (any, *registryError) {
	if err := s.o.Registry.Refresh(r.Context()); err != nil {
		return nil, backend(err)
	}
	return append([]string{}, s.o.Registry.Subjects()...), nil
}

// ids gives the schema ids of the subject in the path, oldest first.
func (s *Server) ids(r *http.Request) (subject string, ids []uint32, failed *registryError) {
	subject = r.PathValue("subject")
	if err := s.o.Registry.Refresh(r.Context()); err != nil {
		return "", nil, backend(err)
	}
	if ids = s.o.Registry.Versions(subject); len(ids) == 0 {
		return "", nil, refused(codeNoSubject, "Subject '%s' not found.", subject)
	}
	return subject, ids, nil
}

func (s *Server) versions(r *http.Request) (any, *registryError) {
	_, ids, failed := s.ids(r)
	out := make([]int, len(ids))
	for i := range out {
		out[i] = i + 1
	}
	return out, failed
}

func (s *Server) version(r *http.Request) (any, *registryError) {
	text := r.PathValue("version")
	n, err := strconv.ParseInt(text, 10, 32)
	switch {
	case text == "latest":
		n = -1
	case err != nil || n == 0 || n < -1:
		return nil, refused(codeBadVersion,
			"The specified version '%s' is not a valid version id. Allowed values are between [1, 2^31-1] and the string \"latest\"", text)
	}
	subject, ids, failed := s.ids(r)
	if failed != nil {
		return nil, failed
	}
	if n == -1 {
		n = int64(len(ids))
	}
	if n > int64(len(ids)) {
		return nil, refused(codeNoVersion, "Version %d not found.", n)
	}
	_, schema, err := s.o.Registry.Schema(r.Context(), ids[n-1])
	if err != nil {
		return nil, backend(err)
	}
	return subjectVersion{subject, int(n), ids[n-1], schema}, nil
}

func (s *Server) versionText(r *http.Request) (any, *registryError) {
	v, failed := s.version(r)
	if failed != nil {
		return nil, failed
	}
	return json.RawMessage(v.(subjectVersion).Schema), nil
}
