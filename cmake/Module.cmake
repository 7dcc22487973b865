set(DROVER_MODULES "" CACHE INTERNAL "Every module named so far")

# src/<name>/*.c as one static library that may use only the modules it names.
# The linker refuses a wrong arrow to a function, tests/tidy.py one to a header.
# LIBS are libraries from outside; headers of a module may show their types.
# A folder without sources (auth, so far) gives an empty library.
function(module name)
  cmake_parse_arguments(ARG "" "" "USES;LIBS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/${name}/*.c)
  list(FILTER sources EXCLUDE REGEX "/src/server/main\\.c$")
  if(sources)
    add_library(${name} STATIC ${sources})
    target_compile_options(${name} PRIVATE ${DROVER_WARNINGS})
    set(scope PUBLIC)
  else()
    add_library(${name} INTERFACE)
    set(scope INTERFACE)
  endif()
  target_include_directories(${name} ${scope} ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(${name} ${scope} ${ARG_USES} ${ARG_LIBS} Threads::Threads)
  set(DROVER_MODULES ${DROVER_MODULES} ${name} CACHE INTERNAL "")
endfunction()
