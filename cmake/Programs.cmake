# The server, and what tests it.
function(drover_program)
  add_executable(drover ${PROJECT_SOURCE_DIR}/src/server/main.c)
  target_compile_options(drover PRIVATE ${DROVER_WARNINGS})
  target_link_libraries(drover PRIVATE server)
  set_target_properties(drover PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR})
  install(TARGETS drover RUNTIME)
endfunction()

# A test that runs longer hangs: far more than any takes on a busy machine with a slow disk.
set(TEST_HANG_S 1200)

# A program of ours from |sources|, with every warning. ARGN: what it links.
function(test_program name sources)
  add_executable(${name} ${sources})
  target_compile_options(${name} PRIVATE ${DROVER_WARNINGS})
  target_compile_definitions(${name} PRIVATE DROVER_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  target_link_libraries(${name} PRIVATE ${ARGN})
endfunction()

# tests/unit/test_<module>_<rest>.c, each a program of its own that links its module.
function(unit_tests)
  set(folder ${PROJECT_SOURCE_DIR}/tests/unit)
  file(GLOB support CONFIGURE_DEPENDS ${folder}/support*.c)
  file(GLOB tests CONFIGURE_DEPENDS ${folder}/test_*.c)
  add_library(unit_support STATIC ${support})
  target_compile_options(unit_support PRIVATE ${DROVER_WARNINGS})
  target_compile_definitions(unit_support PRIVATE DROVER_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  target_link_libraries(unit_support PUBLIC core PkgConfig::CMOCKA PkgConfig::PQ)
  target_include_directories(unit_support PUBLIC ${folder})
  foreach(file ${tests})
    get_filename_component(name ${file} NAME_WE)
    string(REGEX REPLACE "^test_([a-z]+).*$" "\\1" module ${name})
    if(NOT module IN_LIST DROVER_MODULES)
      message(FATAL_ERROR "${file}: no module is called ${module}")
    endif()
    test_program(${name} ${file} unit_support ${module})
    if(module STREQUAL "api")
      # They bring their own rpc and store (support_api_fake.h), which win over the libraries'.
      target_link_options(${name} PRIVATE LINKER:-z,muldefs)
    endif()
    add_test(NAME ${name} COMMAND ${name})
    set_tests_properties(${name} PROPERTIES LABELS unit TIMEOUT ${TEST_HANG_S})
  endforeach()
endfunction()

# tests/fuzz/fuzz_<name>.c: LLVMFuzzerTestOneInput, seeds in tests/fuzz/corpus/<name>/.
# With FUZZ by libFuzzer; else by driver.c: the seeds and 10,000 mutations of them, in ctest.
function(fuzzers)
  set(folder ${PROJECT_SOURCE_DIR}/tests/fuzz)
  file(GLOB targets CONFIGURE_DEPENDS ${folder}/fuzz_*.c)
  foreach(file ${targets})
    get_filename_component(name ${file} NAME_WE)
    string(REGEX REPLACE "^fuzz_" "" short ${name})
    if(FUZZ)
      test_program(${name} ${file} ${DROVER_MODULES})
      target_link_options(${name} PRIVATE -fsanitize=fuzzer)
      add_test(NAME ${name} COMMAND ${name} -runs=10000 ${folder}/corpus/${short})
    else()
      test_program(${name} "${file};${folder}/driver.c" ${DROVER_MODULES})
      add_test(NAME ${name} COMMAND ${name} ${folder}/corpus/${short})
    endif()
    set_tests_properties(${name} PROPERTIES LABELS fuzz TIMEOUT ${TEST_HANG_S})
  endforeach()
endfunction()

# bench/bench_<name>.c, with the helpers of bench.c: smoke size in ctest, full size with BENCH=1.
function(benches)
  set(folder ${PROJECT_SOURCE_DIR}/bench)
  file(GLOB targets CONFIGURE_DEPENDS ${folder}/bench_*.c)
  foreach(file ${targets})
    get_filename_component(name ${file} NAME_WE)
    test_program(${name} "${file};${folder}/bench.c" ${DROVER_MODULES})
    target_include_directories(${name} PRIVATE ${folder})
    add_test(NAME ${name} COMMAND ${name})
    set_tests_properties(${name} PROPERTIES LABELS bench TIMEOUT ${TEST_HANG_S})
  endforeach()
  add_subdirectory(${folder} ${PROJECT_BINARY_DIR}/bench)
endfunction()

# What of src/ the tests that ran have executed, by file and line: Debian's gcovr.
function(coverage_report)
  find_program(GCOVR gcovr)
  if(NOT GCOVR)
    message(WARNING "no target coverage_report: gcovr is missing")
    return()
  endif()
  add_custom_target(coverage_report
    COMMAND ${GCOVR} --root ${PROJECT_SOURCE_DIR} --filter ${PROJECT_SOURCE_DIR}/src/
      --html-details coverage.html --print-summary ${PROJECT_BINARY_DIR}
    COMMENT "${PROJECT_BINARY_DIR}/coverage.html"
    VERBATIM)
endfunction()

# House rules; each refuses its canaries first.
function(gate_tests)
  foreach(gate tidy format)
    foreach(mode canary tree)
      add_test(NAME ${gate}_${mode}
        COMMAND ${Python3_EXECUTABLE} ${PROJECT_SOURCE_DIR}/tests/${gate}.py ${mode})
      set_tests_properties(${gate}_${mode} PROPERTIES LABELS gate TIMEOUT ${TEST_HANG_S}
        SKIP_RETURN_CODE 77)
    endforeach()
  endforeach()
  # With nothing there but what the server needs.
  add_test(NAME configure_bare COMMAND ${CMAKE_COMMAND} -S ${PROJECT_SOURCE_DIR}
    -B ${PROJECT_BINARY_DIR}/bare -DCMAKE_DISABLE_FIND_PACKAGE_Python3=ON)
  set_tests_properties(configure_bare PROPERTIES LABELS gate TIMEOUT ${TEST_HANG_S})
  add_test(NAME failures_canary
    COMMAND ${Python3_EXECUTABLE} ${PROJECT_SOURCE_DIR}/scripts/failures canary)
  set_tests_properties(failures_canary PROPERTIES LABELS gate TIMEOUT ${TEST_HANG_S})
endfunction()
