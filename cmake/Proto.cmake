# proto/*.proto compiled by protoc-c: #include "proto/<name>.pb-c.h".
# Files import each other by bare name: import "kv.proto".
function(proto_module)
  file(GLOB protos CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/proto/*.proto)
  set(root ${PROJECT_BINARY_DIR}/generated)
  set(DROVER_MODULES ${DROVER_MODULES} proto CACHE INTERNAL "")
  find_program(PROTOC_C protoc-c REQUIRED)
  file(MAKE_DIRECTORY ${root}/proto)
  set(sources "")
  foreach(file ${protos})
    get_filename_component(name ${file} NAME_WE)
    set(out ${root}/proto/${name}.pb-c)
    add_custom_command(
      OUTPUT ${out}.c ${out}.h
      COMMAND ${PROTOC_C} --c_out=${root}/proto -I${PROJECT_SOURCE_DIR}/proto ${file}
      DEPENDS ${protos}
      COMMENT "protoc-c ${name}.proto")
    list(APPEND sources ${out}.c ${out}.h)
  endforeach()
  add_library(proto STATIC ${sources})
  target_compile_options(proto PRIVATE -w)
  target_include_directories(proto SYSTEM PUBLIC ${root} ${root}/proto)
  target_link_libraries(proto PUBLIC PkgConfig::PROTOBUF_C)
endfunction()
